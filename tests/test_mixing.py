"""LoRAs changed while a server paints: the picture goes on, a restart keeps them, what does not fit changes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np
import tiny
from waiting import run, until
from workers import QUICK, SMALL, Ear, fed, painted, working

from stream.config import Lora, ModelSpec
from stream.messages import Fake, Plan
from stream.mixing import LOST


def fakes(mix_ms: float, *loras: Lora) -> Plan:
    spec = ModelSpec("pass-through", "pass-through", loras=loras)
    return Plan(spec, fake=Fake(mix_ms=mix_ms))


def file(folder: Path, name: str = "ink") -> str:
    """A LoRA as the fake wants it: it is there."""
    (folder / f"{name}.safetensors").touch()
    return str(folder / f"{name}.safetensors")


def kill(pid: int | None) -> None:
    assert pid
    os.kill(pid, signal.SIGKILL)


def test_pictures_come_while_loras_change(tmp_path: Path) -> None:
    async def test() -> None:
        async with working(fakes(500)) as supervisor:
            ear, told = Ear(), []
            supervisor.watch(lambda: told.append((supervisor.mixing.changing, supervisor.mixing.held)))
            stream = supervisor.open(SMALL, ear)
            await painted(stream, ear)
            loras = (Lora(file(tmp_path), 0.8),)
            answer, before = supervisor.mix(loras), len(ear.pictures)
            assert (supervisor.mixing.changing, supervisor.mixing.held, supervisor.mixing.wanted) == (True, (), loras)
            await fed(stream, answer.done)
            assert answer.result() is None
            assert len(ear.pictures) - before >= 20  # of some hundred, in half a second
            assert (supervisor.mixing.changing, supervisor.mixing.held) == (False, loras)
            assert told[-1] == (False, loras)

    run(test())


def test_what_is_not_there_leaves_the_old_and_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        good = (Lora(file(tmp_path), 0.8),)
        async with working(fakes(0)) as supervisor:
            assert await supervisor.mix(good) is None
            gone = tmp_path / "gone.safetensors"
            assert await supervisor.mix((*good, Lora(str(gone)))) == f"lora {gone} is not there: check the path"
            assert supervisor.mixing.held == good
            assert not supervisor.mixing.changing
            assert await supervisor.mix((*good, Lora(str(gone), 0.0))) is None

    run(test())


def test_the_newest_wish_wins_and_everybody_is_answered(tmp_path: Path) -> None:
    async def test() -> None:
        ink = file(tmp_path)
        async with working(fakes(100)) as supervisor:
            answers = [supervisor.mix((Lora(ink, k / 10),)) for k in range(5)]
            told: list[tuple[Lora, ...]] = []
            supervisor.watch(lambda: told.append(supervisor.mixing.held))
            assert supervisor.mixing.wanted == (Lora(ink, 0.4),)
            assert await asyncio.gather(*answers) == [None] * 5
            assert supervisor.mixing.held == (Lora(ink, 0.4),)
            assert {held[0].strength for held in told if held} == {0.0, 0.4}

    run(test())


def test_what_is_asked_for_before_the_worker_is_ready_reaches_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with working(fakes(0), ready=False) as supervisor:
            answer = supervisor.mix((Lora(file(tmp_path), 0.8),))
            assert supervisor.mixing.held == ()
            assert await answer is None
            assert supervisor.state == "ready"
            assert supervisor.mixing.held == (Lora(file(tmp_path), 0.8),)

    run(test())


def test_a_worker_that_dies_of_a_change_comes_back_without_it(tmp_path: Path) -> None:
    async def test() -> None:
        good = (Lora(file(tmp_path), 0.8),)
        async with working(fakes(300)) as supervisor:
            await supervisor.mix(good)
            answer = supervisor.mix((Lora(file(tmp_path), 0.1),))
            kill(supervisor.pid)
            assert await answer == LOST
            await until(lambda: supervisor.state == "ready" and supervisor.restarts == 1)
            assert supervisor.mixing.held == good
            assert not supervisor.mixing.changing

    run(test())


def test_a_restart_loads_with_the_newest(tmp_path: Path) -> None:
    async def test() -> None:
        source, lora = tiny.save("sd15", tmp_path / "model"), tiny.save_wide_lora("sd15", tmp_path / "ink.safetensors")
        plan = Plan(ModelSpec("tiny", str(source)), "torch", "cpu", "f32")
        async with working(plan, QUICK) as supervisor:
            ear = Ear()
            stream = supervisor.open(SMALL.changed(prompt="a cat"), ear)
            await painted(stream, ear)
            plain = ear.pictures[-1].frame.image
            answer, before = supervisor.mix((Lora(str(lora)),)), len(ear.pictures)
            await fed(stream, answer.done)
            assert answer.result() is None
            assert len(ear.pictures) > before
            await painted(stream, ear, 3)
            mixed = ear.pictures[-1].frame.image
            assert np.abs(mixed.astype(int) - plain).max() > 1
            kill(supervisor.pid)
            await until(lambda: supervisor.state == "ready" and supervisor.restarts == 1)
            await painted(stream, ear, 3)
            assert np.abs(ear.pictures[-1].frame.image.astype(int) - mixed).max() <= 1
            assert await supervisor.mix((Lora(str(lora), 0.0),)) is None
            await painted(stream, ear, 3)
            assert np.array_equal(ear.pictures[-1].frame.image, plain)

    run(test())


def test_the_way_back_of_a_still_picture_is_seen_too(tmp_path: Path) -> None:
    """The similarity filter lets the first frame after a change through, however still the input is."""

    async def test() -> None:
        still = SMALL.changed(similarity=True, max_skip=1000, similarity_threshold=0.5)
        async with working(fakes(0)) as supervisor:
            ear = Ear()
            stream = supervisor.open(still, ear)
            await painted(stream, ear, 5)
            assert ear.pictures[-1].repeated
            await supervisor.mix((Lora(file(tmp_path), 0.8),))
            seen = len(ear.pictures)
            await fed(stream, lambda: any(not p.repeated for p in ear.pictures[seen:]))

    run(test())
