"""Builds TensorRT engines ahead of time: `python -m tools.build_engines`, the same as `livebrush engines build`.

With `--full-size sd-turbo` (or sd15, sdxl-turbo) it builds all of that model's networks at full size with random
weights instead, one after the other, throws the engines away, and says what each took: that is where
docs/benchmarks/engines.md comes from. On a quiet machine:

    python -m tools.build_engines --full-size sd-turbo --sm 89 --sm 120 --json docs/benchmarks/engines.json
"""

from __future__ import annotations

import gc
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from engines import Network, preflight
from engines.build import Profiles, Tell, Wish, axes_of, build
from engines.export import export
from engines.spec import Precision
from engines.torch import DTYPES
from stream.errors import LivebrushError
from stream.terminal import building
from tools.conditions import machine

EVERY_S = 0.05  # between two looks at the memory
PACKAGES = ("torch", "diffusers", "onnx", "polygraphy", "tensorrt-rtx")
MARK = "<!-- made by tools.build_engines -->"
OVERFLOW = (("sdxl-turbo", "vae-encoder"), ("sdxl-turbo", "vae-decoder"))  # in f16
HEAD = ("network", "weights GB", "export s", "build s", "export peak GB", "builder peak GB", "together GB", "engine GB")


# ------------------------------------------------------------------------------------------------- memory


class Memory:
    """The most that this process and its children held together, in bytes, looked at every EVERY_S (Linux)."""

    def __init__(self) -> None:
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            self.most = max(self.most, sum(map(resident, family())))

    @contextmanager
    def watched(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()


def family() -> list[int]:
    """This process and its children."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task").glob("*/children")
    return [own, *(int(pid) for file in children for pid in read(file).split())]


def resident(pid: int) -> int:
    """Memory of a process that is its own: what it maps of files does not count, the system can take it back."""
    facts = dict(line.split(":", 1) for line in read(Path(f"/proc/{pid}/status")).splitlines() if ":" in line)
    return sum(int(facts.get(name, "0").split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""


# ----------------------------------------------------------------------------------------------- full size


Make = Callable[[], tuple[Network, Mapping[str, Tensor]]]  # a network without its weights, and those


def measure(make: Make, wish: Wish, spans: Profiles, tell: Tell) -> dict[str, Any]:
    """One network, made, exported and built, and what that took. Nothing of it stays."""
    memory, began, worked = Memory(), time.perf_counter(), sum(os.times()[:4])
    with memory.watched(), tempfile.TemporaryDirectory() as folder:
        (network, weights), place = make(), Path(folder)
        profiles = spans.named(axes_of(network))
        exported = export(network, place, wish.precision, weights)
        del network, weights
        gc.collect()
        built = build(exported, place, Wish(wish.backend, wish.precision, profiles, wish.compute), tell)
        return {
            "precision": wish.precision, "weights_bytes": exported.bytes,
            "export_s": exported.seconds, "export_peak_bytes": exported.peak_bytes, "parse_s": built.parse_s,
            "build_s": built.build_s, "builder_peak_bytes": built.peak_bytes, "together_peak_bytes": memory.most,
            "engine_bytes": built.bytes, "seconds": time.perf_counter() - began,
            "processor_s": sum(os.times()[:4]) - worked,
            "profiles": {a: list(s) for a, s in profiles.spans.items()},
        }  # fmt: skip


def full_size(model: str, compute: tuple[int, ...], only: list[str], console: Console) -> dict[str, Any]:
    """All networks of a model at full size, one after the other."""
    from tools.full_size import MODELS, names, outline

    if model not in MODELS:
        raise LivebrushError(f"full size {model[:80]!r} is unknown: use {' or '.join(MODELS)}")
    spans, found = Profiles.around(512, 512, 8), {}
    with building(console) as tell:
        for name in only or names(model):
            precision: Precision = "f32" if (model, name) in OVERFLOW else "f16"
            wish = Wish("tensorrt-rtx", precision, spans, compute)

            def hear(phase: str, far: float, name: str = name) -> None:
                tell(f"{name}: {phase.lower()}", far)

            found[name] = measure(partial(outline, model, name, DTYPES[precision]), wish, spans, hear)
    return {"conditions": conditions(compute), "networks": found}


def conditions(compute: tuple[int, ...]) -> dict[str, Any]:
    """What the figures depend on."""
    return {**machine(PACKAGES), "weights": "random", "compute": list(compute)}


def rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """What HEAD says of every network, and of all."""
    for name, fact in found["networks"].items():
        sizes = [fact[k] for k in ("export_peak_bytes", "builder_peak_bytes", "together_peak_bytes", "engine_bytes")]
        yield (f"{name} ({fact['precision']})", f"{fact['weights_bytes'] / 1e9:.2f}", f"{fact['export_s']:.1f}",
               f"{fact['parse_s'] + fact['build_s']:.1f}", *(f"{s / 1e9:.2f}" for s in sizes))  # fmt: skip
    every = list(found["networks"].values())
    worked = sum(f.get("processor_s", math.nan) for f in every)
    said = "" if math.isnan(worked) else f" ({worked:.0f} s of a processor)"
    yield (f"all, in {sum(f['seconds'] for f in every):.0f} s{said}",
           f"{sum(f['weights_bytes'] for f in every) / 1e9:.2f}",
           f"{sum(f['export_s'] for f in every):.1f}", f"{sum(f['parse_s'] + f['build_s'] for f in every):.1f}", "", "",
           f"{max(f['together_peak_bytes'] for f in every) / 1e9:.2f}",
           f"{sum(f['engine_bytes'] for f in every) / 1e9:.2f}")  # fmt: skip


def keep(file: Path, model: str, found: dict[str, Any]) -> None:
    """Puts a model's figures into a JSON file, beside those of others, and all into the page of the same name."""
    known = json.loads(file.read_text()) if file.is_file() else {}
    known |= {model: found}
    file.write_text(json.dumps(known, indent=1) + "\n")
    page = file.with_suffix(".md")
    if page.is_file() and page.read_text().count(MARK) == 2:
        before, _, after = page.read_text().split(MARK)
        page.write_text(f"{before}{MARK}\n{''.join(map(markdown, known, known.values()))}\n{MARK}{after}")


def markdown(model: str, found: dict[str, Any]) -> str:
    """A model's figures as a table, under a line on when and how."""
    facts = found["conditions"]
    load = ", ".join(map(str, facts["load_average"] or ["unknown"]))
    where = f"{facts['cores']} cores of {facts['processor']}, load average {load} at the end"
    lines = [f"**{model}**, {facts['date']}, {where}:"]
    lines += ["", f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    return "\n" + "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows(found))]) + "\n"


# ---------------------------------------------------------------------------------------------------- main


def main(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="As of livebrush engines build.")] = None,
    sm: Annotated[list[int] | None, typer.Option(metavar="89", help="A card to build for; may be given again.")] = None,
    precision: Annotated[str, typer.Option(metavar="f16|bf16|f32", help="The numbers they use.")] = "f16",
    full: Annotated[str | None, typer.Option("--full-size", metavar="sd-turbo|sd15|sdxl-turbo", help="Measure builds "
                                             "of a model's networks at full size, with random weights.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Of --full-size, this network; may be given again.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Add the figures there.")] = None,
) -> None:  # fmt: skip
    """Builds a model's engines ahead of time, or measures full-size builds."""
    console = Console(stderr=True)
    try:
        if full is not None:
            preflight.check_library("tensorrt-rtx")
            found = full_size(full, tuple(sm or (89, 120)), only or [], console)
            show(found)
            if json_file is not None:
                keep(json_file, full, found)
            return
        ahead(model, tuple(sm or ()), precision, console)
    except LivebrushError as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def ahead(model: str | None, compute: tuple[int, ...], precision: Any, console: Console) -> None:
    from engines.cache import default_folder
    from stream.ahead import Order, build_model
    from stream.config import spec

    if model is None:
        raise LivebrushError("no model was named: give one (see livebrush models), or --full-size sd-turbo")
    with building(console) as tell:
        for made in build_model(spec(model), Order(compute=compute, precision=precision), default_folder(), tell):
            typer.echo(made.told())


def show(found: dict[str, Any]) -> None:
    table = Table(*HEAD, box=None, padding=(0, 2, 0, 0))
    for row in rows(found):
        table.add_row(*row)
    Console(width=160).print(table)


if __name__ == "__main__":
    typer.run(main)
