"""`livebrush serve`: binds the address, says it, and runs the application until Ctrl-C or SIGTERM.

The address is bound before anything heavy is imported, so that the browser may come at once; the model loads in the
worker while the page is there already.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rich.console import Console

from stream.config import ModelSpec, spec
from stream.messages import Fake, Plan, pass_through
from web.auth import Places, is_loopback
from web.config import Config, Control
from web.errors import ServeError

if TYPE_CHECKING:
    from stream.sources import Source

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
    if not is_loopback(config.host) and not config.insecure:
        raise ServeError(
            f"host {config.host} is open to the network, and nobody is asked for a password yet: use 127.0.0.1, or add "
            "--insecure where everybody on the network may come in"
        )
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


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens."""
    kind, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][::4]
    made = socket.socket(kind, socket.SOCK_STREAM)
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
    """Serves until it is stopped. `out` gets the address; `console` is for the status line and errors.

    Raises LivebrushError before it serves, where something is wrong with what was asked for.
    """
    planned = plan(config)
    if config.control != Control():
        import_module("web.steering").check(config)
    with bind(config) as bound:
        opened = open_input(config.source)
        config = replace(config, port=bound.getsockname()[1])
        out(f"Livebrush is at {Places(config.host, config.port)} (Ctrl-C stops it)")
        with contextlib.suppress(KeyboardInterrupt):  # while it starts; later the server hears the signal itself
            run = import_module("web.server").run  # everything heavy: the browser may knock meanwhile
            asyncio.run(run(config, planned, opened, bound, console))


def open_input(name: str | None) -> Source | None:
    """The server's own source; SourceError where it cannot be opened."""
    if name is None:
        return None
    from web.pump import connect

    return connect(name)


__all__ = ["PASS_THROUGH", "Config", "Control", "bind", "plan", "serve"]
