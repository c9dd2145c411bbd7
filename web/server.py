"""The running server: uvicorn, the application, the status line and the browser."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import webbrowser
from collections.abc import AsyncIterator, Coroutine
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.logging import RichHandler

from stream.clips.queue import Queue
from stream.errors import ClipError
from stream.memory import settle
from stream.messages import Plan
from stream.supervisor import Supervisor
from web.app import House, create_app, stop
from web.auth import Places
from web.clips import Clips
from web.config import Config
from web.inputs import Pumps
from web.messages import PICTURE_LIMIT
from web.orders import Rules, motions
from web.serve import wants_browser
from web.sockets import NarrowWebSocket
from web.status import StatusLine

log = logging.getLogger("livebrush")
GRACE_S = 1  # for requests under way when the server stops
START_S = 0.05


class Server(uvicorn.Server):
    """Stops in good order: sessions are told before their connections are cut, and a signal is no error."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
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
            )
        )
        self._app = app

    @property
    def house(self) -> House:
        """The application's own; there from the start on."""
        house: House = self._app.state.house
        return house

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Ctrl-C and SIGTERM, however often."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await stop(self.house.supervisor, self.house.sessions, self.house.clips)
        await super().shutdown(sockets)


async def run(config: Config, plan: Plan, bound: socket.socket, console: Console) -> None:
    """Serves at `bound` until a signal comes."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler(console)])
    supervisor = Supervisor(plan)
    server = Server(create_app(config, supervisor, pumps=Pumps(config.source), clips=opened_clips(config)))
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


def handler(console: Console) -> logging.Handler:
    """Log lines above the status line, without a hundred details."""
    return RichHandler(console=console, show_path=False, show_time=False, markup=False)


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
    """Opens the browser when the page can be served, and shows how it goes."""
    while not server.started:
        await asyncio.sleep(START_S)
    if wants_browser(config.browser):
        await asyncio.to_thread(webbrowser.open, str(Places(config.host, config.port)))
    house = server.house
    await StatusLine(console, house.supervisor, house.sessions).run()
