"""What the commands share: errors as exit codes, consoles, and options read from a model."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from typer.core import TyperGroup

from stream.errors import LivebrushError, SettingsError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from rich.console import Console

    from stream.config import Lora

FAILED, WRONG, INTERRUPTED = 1, 2, 130  # exit codes
Command = TypeVar("Command", bound=Callable[..., Any])


class Group(TyperGroup):
    """Errors that a user can mend become one message and exit code 2; Ctrl-C becomes 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LivebrushError as error:
            told().print("[bold red]error:[/]", str(error).replace("[", r"\["), highlight=False, soft_wrap=True)
            raise typer.Exit(WRONG) from None
        except KeyboardInterrupt:
            told().print("stopped: nothing was written")
            raise typer.Exit(INTERRUPTED) from None


def told() -> Console:
    """Where progress and errors go: standard error."""
    from rich.console import Console

    return Console(stderr=True)


def shown() -> Console:
    """Where results go: standard output, never folded where it is no terminal."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=160)


def with_options(
    command: Command, into: str, options: Mapping[str, Any], convert: Callable[[str, Any], Any]
) -> Command:
    """Gives a command options, by name and annotation. It gets those that were given, converted, as the dict
    `into`, in the place of which they stand."""

    def called(**given: Any) -> Any:
        asked = {name: given.pop(name) for name in options}
        return command(**{into: {name: convert(name, v) for name, v in asked.items() if v is not None}}, **given)

    added = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=a)
             for n, a in options.items()]  # fmt: skip
    own = [[p] if p.name != into else added for p in inspect.signature(command, eval_str=True).parameters.values()]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for part in own for p in part]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    return called  # type: ignore[return-value]


def option(field: FieldInfo, default: str = "") -> Any:
    """The annotation of a command's parameter for a field; `default` goes before the field's own."""
    kind, metavar = _bare(field.annotation), None
    if get_origin(kind) is Literal:
        kind, metavar = str, "|".join(get_args(kind))
    elif get_origin(kind) is tuple:
        kind, metavar = str, "N,N,..."
    elif kind not in (bool, int, float, str):
        kind, metavar = str, "NUMBER"
    return Annotated[kind | None, typer.Option(help=described(field, default), metavar=metavar, show_default=False)]


def _bare(kind: Any) -> Any:
    """An annotation without `None` and without what pydantic is told."""
    while get_origin(kind) is Annotated or isinstance(kind, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    return kind


def described(field: FieldInfo, default: str) -> str:
    """A field's help with its limits and its default."""
    low, high, below = (bound(field, name) for name in ("ge", "le", "lt"))
    facts = []
    if low is not None:
        most = f" to {high}" if high is not None else f" to below {below}" if below is not None else " or more"
        facts.append(f"{low}{most}")
    if field.default not in (None, ""):
        facts.append(f"default: {default}{str(field.default).lower()}")
    return f"{field.description} ({'; '.join(facts)})" if facts else str(field.description)


def bound(field: FieldInfo, name: str) -> Any:
    """A limit of a field, by pydantic's name for it, or None."""
    return next((getattr(m, name) for m in field.metadata if hasattr(m, name)), None)


def sides(text: str) -> dict[str, int]:
    """`640x360`, or one number for a square."""
    parts = text.lower().split("x")
    try:
        width, height = (int(p) for p in (parts if len(parts) > 1 else parts * 2))
    except ValueError:
        raise SettingsError(f"size {text[:80]!r} is no size: use WIDTHxHEIGHT, e.g. 512x288") from None
    return {"width": width, "height": height}


def lora(text: str) -> Lora:
    """`PATH` or `PATH:0.8`."""
    from pydantic import TypeAdapter, ValidationError

    from stream.config import Lora

    source, _, strength = text.rpartition(":")
    try:
        number = float(strength)
    except ValueError:
        return Lora(text)
    try:
        return TypeAdapter(Lora).validate_python({"source": source, "strength": number})
    except ValidationError as error:
        why = error.errors()[0]["msg"].lower()
        raise SettingsError(f"lora {text[:80]!r}: {why}: use e.g. style.safetensors:0.8") from None


def check_engine(engine: str, precision: str) -> None:
    """EngineError unless both are known by name; whether they work here is for what is heavy to say."""
    from engines import BACKENDS, PRECISIONS, EngineError, either

    for name, value, known in (("engine", engine, BACKENDS), ("precision", precision, PRECISIONS)):
        if value not in ("auto", *known):
            raise EngineError(f"{name} {value[:80]!r} is unknown: use {either('auto', *known)}")
