"""`livebrush serve`: binds the address, says it, and runs the application until Ctrl-C or SIGTERM.

The address is bound before anything heavy is imported, so that the browser may come at once; the model loads in the
worker while the page is there already.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from stream.config import ModelSpec, spec
from stream.messages import Fake, Plan, pass_through
from stream.sinks import live
from web.auth import Places, is_loopback, origin
from web.config import Config, Control
from web.errors import ServeError
from web.people import NEW, People, Token, read_tokens

# A hidden model that paints nothing, to try the delivery without one
PASS_THROUGH = "pass-through"  # noqa: S105
NEAR = 20  # ports looked at for one that is free


# ------------------------------------------------------------------------------------------------- before


def plan(config: Config) -> Plan:
    """What the worker paints with; ConfigError where the model is unknown, SettingsError where the size is wrong."""
    if config.model == PASS_THROUGH:
        return Plan(fitted(pass_through(), config), fake=Fake())
    return Plan(fitted(spec(config.model), config), config.engine, config.device, config.precision)


def fitted(model: ModelSpec, config: Config) -> ModelSpec:
    """The model in the size and with the LoRAs that were asked for."""
    changes = model.changes or bool(config.loras)
    model = replace(model, loras=(*model.loras, *config.loras), changes=changes)
    if config.size is None:
        return model
    width, height = config.size
    return replace(model, settings=model.settings.changed(width=width, height=height))


def bind(config: Config) -> socket.socket:
    """A listening socket at the address of `config`; ServeError says what is wrong with it."""
    check_access(config)
    if not 0 <= config.port < 65536:
        raise ServeError(f"port {config.port} is none: use 1 to 65535, e.g. 8000, or 0 for a free one")
    try:
        return listening(config.host, config.port)
    except socket.gaierror as error:
        raise ServeError(f"host {config.host} is unknown ({error.strerror}): use 127.0.0.1") from None
    except PermissionError:
        raise ServeError(f"port {config.port} is kept for the system: use 8000 or another above 1023") from None
    except OSError as error:
        free = free_port(config.host, config.port)
        hint = f"use --port {free}" if free else "use another --port or --host"
        raise ServeError(f"{config.host}:{config.port} cannot be bound ({error.strerror or error}): {hint}") from None


def check_access(config: Config) -> None:
    """ServeError where the server would be open to others, and nobody asked who they are."""
    if config.access.asked or config.insecure:
        return
    way = "it" if not is_loopback(config.host) else "what stands before the server (--origin, --proxy)"
    if way != "it" and not (config.access.origins or config.access.proxies):
        return
    what = f"host {config.host}" if way == "it" else way
    raise ServeError(
        f"{what} is open to the network, and nobody is asked for a token: add --token new, which makes one, or "
        "--insecure where everybody on the network may do everything"
    )


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Its protocol is said: asyncio switches off Nagle's delay (40 ms for every answer on a
    connection that is kept) only where it is known."""
    kind, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][::4]
    made = socket.socket(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # right after a stop
        made.bind(address)
        made.listen(128)
    except BaseException:
        made.close()
        raise
    return made


def free_port(host: str, port: int) -> int | None:
    """The next port that could be bound."""
    for other in range(port + 1, min(port + NEAR, 65536)):
        try:
            listening(host, other).close()
        except OSError:
            continue
        return other
    return None


def wants_browser(asked: bool | None) -> bool:
    """Whether to open a browser: as asked, else where there is a display."""
    if asked is not None:
        return asked
    if os.environ.get("SSH_CONNECTION") or not sys.stdout.isatty():
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


# ------------------------------------------------------------------------------------------------- the run


def serve(config: Config, out: Callable[[str], Any], console: Console) -> None:
    """Serves until it is stopped, by Ctrl-C also while it starts. `out` gets the address; `console` is for the status
    line and errors.

    Raises LivebrushError before it serves, where something is wrong with what was asked for.
    """
    try:
        begin(config, out, console)
    except KeyboardInterrupt:  # later the server hears the signal itself
        forget_interrupt()


def begin(config: Config, out: Callable[[str], Any], console: Console) -> None:
    planned = plan(config)
    config, made = settled(config)
    for text in config.outputs:
        live.check(text)
    if config.control != Control():
        import_module("web.steering").check(config)
    certificate = certified(config)
    with bind(config) as bound:
        check_input(config.source)
        config = replace(config, port=bound.getsockname()[1])
        out(f"Livebrush is at {Places(config.host, config.port, config.scheme)} (Ctrl-C stops it)")
        for token in made:
            out(f"A new token, for this run: --token {token}")
        run = import_module("web.server").run  # everything heavy: the browser may knock meanwhile
        asyncio.run(run(config, planned, bound, console, certificate))


def forget_interrupt() -> None:
    """Python notes an interrupt that leaves an `exec`, such as makes a dataclass on import, as one that nobody handled,
    until the next `exec`, and ends itself by SIGINT for it (CPython, Python/pythonrun.c)."""
    exec("")  # noqa: S102


def settled(config: Config) -> tuple[Config, list[Token]]:
    """The options with every new token made, and those; ServeError where a token, a key or a place is wrong."""
    tokens = read_tokens(config.access.tokens)
    made = [token for token, text in zip(tokens, config.access.tokens, strict=True) if text.rpartition(":")[2] == NEW]
    access = replace(config.access, tokens=tuple(map(str, tokens)), origins=tuple(map(origin, config.access.origins)),
                     proxies=tuple(map(network, config.access.proxies)))  # fmt: skip
    People.of(access)
    return replace(config, access=access), made


def certified(config: Config) -> tuple[Path, Path] | None:
    """The certificate and its key for HTTPS; ServeError where they cannot be used."""
    if not config.https.wanted and config.https.key is None:
        return None
    from web.certificates import files

    return files(config.https, config.host)


def network(text: str) -> str:
    """The address or network of a proxy; ServeError where it is none."""
    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError:
        raise ServeError(f"proxy {text[:80]!r} is no address: use e.g. 127.0.0.1 or 10.0.0.0/8") from None


def check_input(name: str | None) -> None:
    """SourceError where the server's own source can be none. A camera or an address that is away is waited for."""
    if name is not None:
        from stream.sources import check
        from web.fields import ONCE

        check(name.removeprefix(ONCE))


__all__ = ["PASS_THROUGH", "Config", "Control", "bind", "plan", "serve"]
