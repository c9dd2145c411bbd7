"""How tests wait for what other tasks, threads and processes do: long enough for a busy machine. A test that passes
never takes that long; one that means a limit of its own names it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE_S = 30.0
WHOLE_S = 300.0  # for a test: some start several workers with a model
TURN_S = 0.005
ENDING_S = 2.0  # for tasks that have been told to end


def run(job: Coroutine[Any, Any, T], seconds: float = WHOLE_S) -> T:
    """A test's coroutine in a loop of its own; the tasks that it leaves behind are an error."""

    async def bounded() -> T:
        result = await asyncio.wait_for(job, seconds)
        for _ in range(round(ENDING_S / TURN_S)):
            if not (left := asyncio.all_tasks() - {asyncio.current_task()}):
                return result
            await asyncio.sleep(TURN_S)
        raise AssertionError(f"tasks are left behind: {left}")

    return asyncio.run(bounded())


async def until(holds: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """What `holds` gives as soon as it is true. Counts its own turns: a machine that stands still is forgiven."""
    for _ in range(round(seconds / TURN_S)):
        if found := holds():
            return found
        await asyncio.sleep(TURN_S)
    raise AssertionError(f"it did not come to that within {seconds:g} s")


def comes_to(holds: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """The same for threads and other processes."""
    for _ in range(round(seconds / TURN_S)):
        if found := holds():
            return found
        time.sleep(TURN_S)
    raise AssertionError(f"it did not come to that within {seconds:g} s")
