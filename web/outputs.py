"""Outputs of this machine: where a session's painted picture goes besides pages.

output = await session.outputs.attach("ndi:Livebrush")    # RefusalError where it cannot be
await session.outputs.detach(output.id)
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from stream.errors import SinkError
from stream.sinks import live
from stream.sinks.host import SinkHost
from web.bodies import OutputFacts
from web.errors import RefusalError
from web.media.sound import Sound
from web.messages import OutputsTold
from web.pictures import Pictures, Watcher

MOST = 8  # outputs of one session


class Output:
    """One output at work: its host, and what brings it pictures and sound."""

    def __init__(self, host: SinkHost, watcher: Watcher, sound: Sound) -> None:
        self.id = secrets.token_urlsafe(8)
        self.host = host
        self._watcher, self._sound, self._listener = watcher, sound, sound.listen()
        loop = asyncio.get_running_loop()
        self._jobs = [loop.create_task(self._bring()), loop.create_task(self._sing())]
        host.start()

    @property
    def facts(self) -> OutputFacts:
        host = self.host
        return OutputFacts(
            id=self.id,
            to=host.target.shown,
            kind=host.target.kind,
            state=host.state,
            error=host.error or None,
            frames=host.frames,
            dropped=host.dropped,
            since_s=round(host.since_s, 1),
        )

    async def close(self) -> None:
        self._watcher.close()
        self._listener.close()
        await asyncio.gather(*self._jobs, self.host.close())

    async def _bring(self) -> None:
        async for picture in self._watcher:
            if self._sound.fed:
                self.host.expect_sound()  # before the picture that it opens for
            self.host.put(picture.frame)

    async def _sing(self) -> None:
        async for heard in self._listener:
            self.host.hear(heard.data, heard.captured_at)


class Outputs:
    """Every output of a session, by its id. All on the event loop; `tell` hears of every change."""

    def __init__(self, pictures: Pictures, sound: Sound, tell: Callable[[OutputsTold], None]) -> None:
        self._pictures, self._sound, self._tell = pictures, sound, tell
        self._by_id: dict[str, Output] = {}
        self._closed = False

    def facts(self) -> list[OutputFacts]:
        """How each of them goes."""
        return [output.facts for output in self._by_id.values()]

    @property
    def told(self) -> OutputsTold:
        return OutputsTold(outputs=self.facts())

    async def attach(self, text: str) -> OutputFacts:
        """One more. RefusalError where it is unknown, cannot be used here, or is one too many."""
        try:
            target = await asyncio.to_thread(live.check, text)
        except SinkError as error:
            raise RefusalError(422, str(error)) from None
        return self.add(target)

    def add(self, target: live.Target) -> OutputFacts:
        """One that was checked before."""
        if len(self._by_id) >= MOST:
            raise RefusalError(503, f"{MOST} outputs are there already: end one of them", headers={"Retry-After": "10"})
        if self._closed:
            raise RefusalError(503, "the session ends: begin a new one", headers={"Retry-After": "1"})
        output = Output(SinkHost(target, self._changed), self._pictures.watch(), self._sound)
        self._by_id[output.id] = output
        self._changed()
        return output.facts

    async def detach(self, name: str) -> None:
        """Ends one; what it took is finished. RefusalError where there is none of that id."""
        output = self._by_id.pop(name, None)
        if output is None:
            raise RefusalError(404, f"output {name[:40]!r} is not here: see GET outputs")
        self._changed()
        await output.close()

    async def close(self) -> None:
        """Ends all of them at once, and takes no more."""
        self._closed = True
        outputs, self._by_id = list(self._by_id.values()), {}
        await asyncio.gather(*(output.close() for output in outputs))

    def _changed(self) -> None:
        if not self._closed:
            self._tell(self.told)
