"""The LoRAs of the server: which it knows, how strong they are, and how they change. They are everybody's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from stream.config import Lora, called
from stream.mixing import LOST
from stream.supervisor import Supervisor
from web.bodies import LoraFacts, Loras
from web.errors import RefusalError

MIX_S = 8.0  # how long a change over HTTP waits for the worker's answer
RETRY = {"Retry-After": "2"}


def facts(worker: Supervisor) -> Loras:
    """What pictures are painted with."""
    known = called(worker.mixing.held)
    loras = [LoraFacts(name=name, strength=lora.strength) for name, lora in known.items()]
    return Loras(loras=loras, changing=worker.mixing.changing)


async def change(worker: Supervisor, strengths: Mapping[str, float]) -> Loras:
    """Asks for other strengths, and waits a while. RefusalError where they do not hold; the old ones then do."""
    if worker.state in ("failed", "stopped"):
        raise RefusalError(503, f"nothing paints: {worker.notice or 'the server stops'}", headers=RETRY)
    answer = worker.mix(wanted(worker.mixing.wanted, strengths))
    await asyncio.wait([answer], timeout=MIX_S)
    error = answer.result() if answer.done() else None
    if error is not None:
        raise RefusalError(503 if error == LOST else 422, error, headers=RETRY if error == LOST else {})
    return facts(worker)


def wanted(loras: tuple[Lora, ...], strengths: Mapping[str, float]) -> tuple[Lora, ...]:
    """`loras` with other strengths; RefusalError where one is asked for that the server was not started with."""
    known = called(loras)
    for name in strengths:
        if name not in known:
            told = f"use {', '.join(known)}" if known else "start the server with --lora FILE:0"
            raise RefusalError(422, f"lora {name[:80]!r} is unknown here: {told}")
    return tuple(replace(lora, strength=float(strengths.get(name, lora.strength))) for name, lora in known.items())
