"""A server that can be looked into: the one of `livebrush serve`, in a process of its own, asked by lines of JSON.

with observed(delay_ms=50) as server:
    open_page(server.url)
    server.ask("fault", kind="hang")
    server.ask("census")  # tasks, threads, open files, memory, shared memory
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream.messages import Plan
    from web.config import Config

ROOT = Path(__file__).parents[1]
STARTS_S = 60.0
ANSWERS_S = 30.0  # also its start
STOPS_S = 8.0  # S4 allows 5
MB = 1 << 20
SHARED = Path("/dev/shm")  # noqa: S108 (where Linux keeps shared memory)
POOLED = ("decode_", "encode_", "jpeg_", "asyncio_", "AnyIO worker")  # threads of bounded pools
OFFERS = 100_000  # a minute: as many as a bench likes
BLINK_S = 0.005  # between two looks at the event loop


# ------------------------------------------------------------------------------------------------- outside


@dataclass
class Observed:
    """A running server. `url` is its page; `log` what it wrote to standard error."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        """Asks the server's process; see `Inside`. RuntimeError with its log where it does not answer."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"ask": what, **more}) + "\n")
            self.process.stdin.flush()
        return answer(self.process, self.log)

    def worker(self) -> int:
        """Process id of the worker."""
        return int(self.ask("worker")["pid"])

    def ready(self, seconds: float = STARTS_S) -> None:
        """Waits for the worker to paint."""
        deadline = time.monotonic() + seconds
        while (now := self.ask("worker"))["state"] != "ready":
            if time.monotonic() > deadline:
                raise TimeoutError(f"the worker is {now['state']} ({now['notice']}) after {seconds:g} s\n{self.said()}")
            time.sleep(0.02)

    def cpu_s(self) -> float:
        """Seconds of processor time of the server and its worker so far."""
        import psutil

        times = [psutil.Process(p).cpu_times() for p in (self.pid, self.worker())]
        return float(sum(t.user + t.system for t in times))

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@contextmanager
def limited(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """Kills the process where this takes longer, so that whoever reads from it does not wait for ever."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def answer(process: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    """The next line of the server's process; RuntimeError with its log where it does not come."""
    assert process.stdout is not None
    with limited(process, ANSWERS_S):
        line = process.stdout.readline()
    if not line:
        code = process.poll()
        raise RuntimeError(f"the server does not answer (exit code {code}):\n{log.read_text(errors='replace')[-4000:]}")
    found: dict[str, Any] = json.loads(line)
    return found


@contextmanager
def observed(**options: Any) -> Iterator[Observed]:
    """A server on a free port of 127.0.0.1, ready to paint. Options as `Options`.

    Ends it at the end, with its worker; RuntimeError where it does not end by itself.
    """
    with tempfile.TemporaryDirectory(prefix="livebrush-") as folder:
        log = Path(folder) / "stderr"
        with log.open("w") as errors:
            process = launched(options, errors)
        try:
            server = Observed(process, str(answer(process, log)["url"]), log)
            if options.get("wait", True):
                server.ready()
            yield server
        finally:
            ended(process, log)


def launched(options: dict[str, Any], errors: IO[str]) -> subprocess.Popen[str]:
    asked = json.dumps({k: v for k, v in options.items() if k != "wait"})
    return subprocess.Popen(  # noqa: S603 (ourselves)
        [sys.executable, "-m", "tools.observed", asked], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        text=True, cwd=ROOT,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], log: Path) -> None:
    """Closes the server's standard input, which ends it, and waits."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(STOPS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise RuntimeError(f"the server did not end within {STOPS_S:g} s:\n{log.read_text()[-4000:]}") from None
    finally:
        process.stdout.close()


# ------------------------------------------------------------------------------------------------- inside


@dataclass(frozen=True)
class Options:
    """What the server paints with: a model's name, or `pass-through` with `delay_ms` in every tick.

    `limit` sessions, `offers` a minute, `tokens` as `--token` has them, `size` WIDTHxHEIGHT, `faults`: whether a real
    model obeys `fault` too, `port` 0: any. `clips`: the folder of their queue, where it makes clips as well; `osc`: the
    port where it hears Open Sound Control.
    """

    model: str = "pass-through"
    delay_ms: float = 0
    size: str | None = None
    limit: int = 6
    faults: bool = True
    port: int = 0
    clips: str | None = None
    offers: int = OFFERS
    tokens: Sequence[str] = ()
    osc: int | None = None


class Inside:
    """Answers the questions of `Observed.ask` in the server's process."""

    def __init__(self, supervisor: Any) -> None:
        self._supervisor, self._lags = supervisor, list[float]()

    async def blink(self) -> None:
        """Sleeps for a moment again and again; how much too long that took is the event loop's lag."""
        while True:
            start = time.perf_counter()
            await asyncio.sleep(BLINK_S)
            self._lags.append((time.perf_counter() - start - BLINK_S) * 1000)

    def answer(self, ask: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = getattr(self, f"_{ask}")(**more)
        return found

    def _worker(self) -> dict[str, Any]:
        supervisor = self._supervisor
        return {"pid": supervisor.pid, "state": supervisor.state, "notice": supervisor.notice,
                "restarts": supervisor.restarts}  # fmt: skip

    def _fault(self, kind: Any) -> dict[str, Any]:
        self._supervisor.fault(kind)
        return {"at": time.time() * 1000}

    def _lag(self) -> dict[str, Any]:
        """Milliseconds of event-loop lag since the last question."""
        from tools.sightings import percentiles

        lags, self._lags = self._lags, []
        return percentiles(lags) | {"max": round(max(lags), 1)}

    def _census(self) -> dict[str, Any]:
        """What may leak."""
        import psutil

        gc.collect()
        me = psutil.Process()
        return {
            "tasks": len(asyncio.all_tasks()), "threads": unpooled(), "files": me.num_fds(),
            "memory_mb": round(me.memory_full_info().uss / MB, 2), "shared": ours(),
            "names": sorted(getattr(t.get_coro(), "__qualname__", "?") for t in asyncio.all_tasks()),
        }  # fmt: skip


def ours() -> int:
    """Named pieces of shared memory, other programs' left out."""
    return sum(path.name.startswith(("livebrush", "psm_")) for path in SHARED.glob("*"))


def unpooled() -> int:
    """Threads that are of no bounded pool: those start one when two jobs first meet."""
    return sum(not thread.name.startswith(POOLED) for thread in threading.enumerate())


async def serve(options: Options) -> None:
    """Serves until standard input ends, answering its lines on standard output."""
    from stream.memory import settle
    from stream.supervisor import Supervisor
    from web.app import create_app
    from web.serve import bind
    from web.server import Server, opened_clips

    config = configured(options)
    with bind(config) as bound:
        config = replace(config, port=bound.getsockname()[1])
        supervisor = Supervisor(planned(config, options))
        server = Server(create_app(config, supervisor, clips=opened_clips(config)))
        settle()
        running = asyncio.create_task(server.serve([bound]))
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        inside = Inside(supervisor)
        blinking = asyncio.create_task(inside.blink())
        say({"url": f"http://{config.host}:{config.port}"})
        await talk(inside)
        blinking.cancel()
        server.should_exit = True
        await running


def configured(options: Options) -> Config:
    from livebrush import sides
    from web.config import Access, Config, Control

    asked = sides(options.size) if options.size else None
    size = (asked["width"], asked["height"]) if asked else None
    clips = {"clips": options.clips is not None, "clips_folder": options.clips and Path(options.clips)}
    return Config(model=options.model, port=options.port, size=size, limit=options.limit,
                  offers_per_minute=options.offers, access=Access(tuple(options.tokens)),
                  control=Control(osc=options.osc and str(options.osc)), **clips)  # fmt: skip


def planned(config: Config, options: Options) -> Plan:
    """The worker of `livebrush serve`, which obeys `fault`, and is as slow as asked where it only passes through."""
    from stream.messages import Fake
    from web.serve import plan

    made = plan(config)
    return replace(made, faults=options.faults, fake=made.fake and Fake(delay_ms=options.delay_ms))


def say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def talk(inside: Inside) -> None:
    """Answers every line of standard input until it ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        say(inside.answer(**json.loads(line)))


def main() -> None:
    """`python -m tools.observed '{"delay_ms": 50}'`"""
    if hasattr(os, "setsid"):
        os.setsid()  # a Ctrl-C of the bench is the bench's to handle
    asyncio.run(serve(Options(**json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
