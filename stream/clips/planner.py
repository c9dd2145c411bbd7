"""Asks back ends what a clip will take, in a process of its own: they import torch for it, which the server never does.

planner = Planner()
plan = await planner.plan(timeline)    # ClipError with its place, NotReady, or LateError
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import IO, Any

from stream.clips.backend import Plan
from stream.clips.checks import check, check_ready
from stream.clips.timeline import Timeline
from stream.errors import ClipError, LivebrushError
from stream.process import environment

ANSWER_S = 60.0  # the first one imports torch
IDLE_S = 300.0  # without a question, and the process ends
LINE = 2**24  # bytes of an answer
NICE = 10
COMMAND = (sys.executable, "-P", "-m", "stream.clips.planner")


class NotReadyError(ClipError):
    """The back end cannot work on this machine."""


class LateError(ClipError):
    """There was no answer."""


class Planner:
    """Owns the process, which is started when something is asked. Everything on the event loop."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command, self._lock = command, asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._ending: asyncio.TimerHandle | None = None

    async def plan(self, timeline: Timeline) -> Plan:
        """What a clip will take. ClipError where it cannot be made so."""
        async with self._lock:
            if self._ending is not None:
                self._ending.cancel()
            try:
                said = await asyncio.wait_for(self._asked(timeline.model_dump_json()), ANSWER_S)
            except (TimeoutError, OSError, ValueError) as error:
                await self._end()
                raise LateError(f"nobody could say what it takes ({error or 'it took too long'}): try again") from None
            except BaseException:
                await self._end()  # its answer would be taken for the next one's
                raise
            self._ending = asyncio.get_running_loop().call_later(IDLE_S, self._hang_up)
        return understood(said)

    async def close(self) -> None:
        """Ends the process, if there is one."""
        if self._ending is not None:
            self._ending.cancel()
        await self._end()

    async def _asked(self, line: str) -> Mapping[str, Any]:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env=environment(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL, limit=LINE, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()
        found: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return found

    def _hang_up(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()  # it ends with its input

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def understood(said: Mapping[str, Any]) -> Plan:
    """The plan; the error, where there is one."""
    if "missing" in said:
        raise NotReadyError(said["missing"], ("backend",))
    if "error" in said:
        raise ClipError(said["error"], tuple(said["at"]))
    return Plan(**said["plan"] | {"notes": tuple(said["plan"]["notes"])})


# ------------------------------------------------------------------------------------------------- the process


def answered(line: str) -> dict[str, Any]:
    """What there is to say of a timeline."""
    timeline = Timeline.model_validate_json(line)
    try:
        try:
            check_ready(timeline)
        except ClipError as error:
            return {"missing": str(error)}
        return {"plan": asdict(check(timeline))}
    except ClipError as error:
        return {"error": str(error), "at": error.at}
    except LivebrushError as error:
        return {"error": str(error), "at": ()}


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Answers line by line, until there are no more questions."""
    for line in questions:
        answers.write(json.dumps(answered(line)) + "\n")
        answers.flush()


def main() -> None:
    """What the server starts. Libraries that print to standard output write to standard error instead."""
    if hasattr(os, "nice"):
        os.nice(NICE)
    out = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(out, "w") as answers:
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
