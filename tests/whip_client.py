"""Somebody who comes by WHIP or WHEP: the tests' own client, with the HTTP of RFC 9725 around it.

caller = Caller(url, "/whip/live", Client(picture, codec="H264", candidates=False, control=False, watch=False))
await caller.call()                          # as OBS: no candidates in the offer
await caller.patch(fragment, match=caller.etag)
await caller.restart(cut=True)               # the old way is dead, new sockets
await caller.hang_up()
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
from aioice import Candidate
from rtc_client import Client
from waiting import PATIENCE_S

from web.auth import FRAGMENT, SDP
from web.fragment import Fragment, written
from web.media.ice import Agent, Credentials, Ice


class Caller:
    """One WHIP or WHEP session."""

    def __init__(self, url: str, path: str, client: Client, token: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, headers=headers)
        self.client, self.path = client, path
        self.place = self.etag = ""
        self.answer: httpx.Response | None = None

    async def call(self) -> httpx.Response:
        """Offers, and waits for the connection."""
        await self.client.connect(self._exchange)
        assert self.answer is not None
        return self.answer

    async def post(self, sdp: str, kind: str = SDP) -> httpx.Response:
        return await self.http.post(self.path, content=sdp, headers={"Content-Type": kind})

    async def patch(self, fragment: str, match: str | None, kind: str = FRAGMENT) -> httpx.Response:
        """`match` as it stands in If-Match."""
        headers = {"Content-Type": kind} | ({} if match is None else {"If-Match": match})
        return await self.http.patch(self.place, content=fragment, headers=headers)

    async def restart(self, *, cut: bool = False) -> httpx.Response:
        """Restarts ICE with new sockets; `cut`: nothing goes by the old ones any more."""
        ice = self.client.connection.ice
        transport = ice._open()[0]
        first, second = transport._connection, ice._agent(ice_controlling=True)
        assert isinstance(first, Agent)
        await second.gather_candidates()
        if cut:
            await cut_off(ice)
        ours = Credentials(second.local_username, second.local_password)
        answer = await self.patch(written(ours, [], ("video", "0")), "*")
        if answer.status_code == 200:
            told = Fragment.parse(answer.content)
            assert told.credentials is not None
            second.remote_username, second.remote_password = told.credentials.ufrag, told.credentials.password
            for candidate in told.candidates:
                await second.add_remote_candidate(candidate)
            self.etag = answer.headers["etag"]
            ice._second = second
            ice._following = asyncio.create_task(ice._follow(transport, first, second))
        else:
            await second.leave()
        return answer

    async def hang_up(self) -> httpx.Response:
        return await self.http.delete(self.place)

    async def close(self) -> None:
        await self.http.aclose()
        await self.client.close()

    async def _exchange(self, sdp: str) -> str:
        self.answer = await self.post(sdp)
        assert self.answer.status_code == 201, self.answer.text
        self.place, self.etag = self.answer.headers["location"], self.answer.headers["etag"]
        return self.answer.text


async def cut_off(ice: Ice) -> None:
    """The way of now is dead, as after a change of networks: nothing goes out or comes in."""

    async def lost(_data: bytes) -> None: ...

    for transport in ice._open():
        transport._send = lost  # type: ignore[method-assign]
        for protocol in transport._connection._protocols:
            protocol.datagram_received = lambda *_: None  # type: ignore[method-assign]
            protocol.send_stun = lambda *_: None  # type: ignore[method-assign]


def candidates_of(sdp: str) -> list[Candidate]:
    """Those of a description."""
    lines = [line for line in sdp.splitlines() if line.startswith("a=candidate:")]
    return [Candidate.from_sdp(line.removeprefix("a=candidate:")) for line in lines]


@contextlib.asynccontextmanager
async def calling(url: str, path: str, client: Client, **more: Any) -> AsyncIterator[Caller]:
    """A caller that is connected; hangs up at the end."""
    caller = Caller(url, path, client, **more)
    try:
        await caller.call()
        yield caller
    finally:
        if caller.place:
            await caller.hang_up()
        await caller.close()
