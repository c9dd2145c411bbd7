"""The running server: uvicorn, the application, the status line and the browser."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
import webbrowser
from collections.abc import AsyncIterator, Coroutine
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from rich.console import Console

from stream.clips.queue import Queue
from stream.errors import ClipError
from stream.memory import settle
from stream.messages import Plan
from stream.supervisor import Supervisor
from web import invite, logs
from web.access import Role
from web.app import House, create_app, stop
from web.auth import Places, is_loopback
from web.certificates import Files
from web.clips import Clips
from web.config import Config
from web.door import Door
from web.errors import RefusalError
from web.fields import PICTURE_LIMIT
from web.inputs import Pumps
from web.orders import Rules, motions
from web.serve import wants_browser
from web.sockets import NarrowWebSocket
from web.status import StatusLine

log = logging.getLogger("livebrush")
GRACE_S = 1  # for requests under way when the server stops
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; TLS 1.3 has its own
START_S = 0.05
TWICE_S = 0.3  # between two signals that are two: what starts us may pass one on that we have already
BROWSER_S = 60.0  # for which the code holds that lets this machine's browser in


class Server(uvicorn.Server):
    """Stops in good order: sessions are told before their connections are cut, and a signal is no error.

    From the first signal on nobody new comes in, and `/readyz` says so. A second one ends everything at once.
    """

    def __init__(self, app: FastAPI, certificate: Files | None = None) -> None:
        cert, key = certificate or (None, None)
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",  # one reading of HTTP, whatever else is installed
                ws=NarrowWebSocket,
                ws_max_size=PICTURE_LIMIT,
                ws_ping_interval=5.0,
                ws_ping_timeout=10.0,
                ws_per_message_deflate=False,
                log_config=None,
                access_log=False,
                lifespan="on",
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE_S,
                ssl_certfile=cert,
                ssl_keyfile=key,
                ssl_ciphers=CIPHERS,
            )
        )
        self._app = app
        self._asked_at: float | None = None  # to stop

    @property
    def house(self) -> House:
        """The application's own; there from the start on."""
        house: House = self._app.state.house
        return house

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Ctrl-C and SIGTERM: the first in good order, the second at once, whatever hangs."""
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at > TWICE_S:
            end_at_once(128 + sig, self.house.supervisor.pid)
        if self._asked_at is None:
            self._asked_at, self.should_exit = now, True
            if (house := getattr(self._app.state, "house", None)) is not None:
                house.sessions.refuse()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await stop(self.house.supervisor, self.house.sessions, self.house.clips)
        await super().shutdown(sockets)


def end_at_once(code: int, worker: int | None) -> None:
    """Ends this process and its worker, without a word to anybody; what else it began ends when it is gone."""
    if worker is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, getattr(signal, "SIGKILL", signal.SIGTERM))
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # the cursor, which the status line hides
    os._exit(code)


async def run(
    config: Config, plan: Plan, bound: socket.socket, console: Console, certificate: Files | None = None
) -> None:
    """Serves at `bound` until a signal comes; HTTPS with a certificate."""
    logs.begin(config.logs, console)
    supervisor = Supervisor(plan)
    app = create_app(config, supervisor, pumps=Pumps(config.source), clips=opened_clips(config))
    server = Server(app, certificate)
    settle()
    async with beside(greet(server, config, console)):
        await server.serve([bound])


def opened_clips(config: Config) -> Clips | None:
    """The user's queue of clips, unless none are to be made. Without a place for it there is still the live picture."""
    if not config.clips:
        return None
    try:
        queue = Queue(config.clips_folder)
    except ClipError as error:
        log.warning("no clips are made: %s", error)
        return None
    return Clips(queue, Rules(motions(), frozenset(config.clips_allow)), limit=config.clips_limit)


@contextlib.asynccontextmanager
async def beside(job: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `job` meanwhile."""
    task = asyncio.ensure_future(job)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def greet(server: Server, config: Config, console: Console) -> None:
    """Opens the browser when the page can be served, says how others come in, and shows how it goes."""
    while not server.started:
        await asyncio.sleep(START_S)
    house = server.house
    if wants_browser(config.browser):
        await asyncio.to_thread(webbrowser.open, own_page(config, house.door))
    if config.logs.form == "json":
        await told_in_lines(house.supervisor)
        return
    if not is_loopback(config.host):
        await asyncio.to_thread(welcome, config, house.door, console)
    await StatusLine(console, house.supervisor, house.sessions).run()


def own_page(config: Config, door: Door) -> str:
    """The page for a browser on this machine, which needs no login."""
    host = "localhost" if config.host in invite.ANY else config.host
    place = str(Places(host, config.port, config.scheme))
    return place if door.people.open else f"{place}/?token={door.people.code(Role.ADMIN, BROWSER_S)}"


def welcome(config: Config, door: Door, console: Console) -> None:
    """How others come in; in a terminal also the way for a phone, a QR code for whoever stands before it."""
    try:
        place = invite.base(config)
    except RefusalError as error:
        log.warning("%s", error)
        return
    console.print(f"Others reach it at {place}", highlight=False, soft_wrap=True)
    if console.is_terminal:  # a file would keep the code
        until = "" if door.people.open else f", for {invite.TERMINAL_S / 3600:.0f} hours, to control"
        console.print(f"This lets a phone in{until}:", highlight=False)
        link = invite.link(config, door, Role.CONTROL, invite.TERMINAL_S)
        console.print(invite.terminal(link), highlight=False, soft_wrap=True, markup=False)


async def told_in_lines(supervisor: Supervisor) -> None:
    """The worker's states as lines of the log, instead of a status line; until it is cancelled."""
    said = ("", "")

    def tell() -> None:
        nonlocal said
        now = supervisor.state, supervisor.notice
        if now != said:
            said = now
            log.info("the worker is %s", now[0], extra={"event": f"worker {now[0]}", "reason": now[1]})

    tell()
    undo = supervisor.watch(tell)
    try:
        await asyncio.Event().wait()
    finally:
        undo()
