"""OSC over real UDP: addresses, floods, bundles with times, what is malformed, and what is told."""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message_builder import build_msg
from pythonosc.osc_packet import OscPacket
from test_control import Steered
from waiting import PATIENCE_S, comes_to, run, until
from webrig import Served, served

from stream.control import addresses, osc
from stream.control.addresses import ADDRESSES
from stream.control.hub import Hub
from stream.errors import ControlError
from stream.settings import Settings
from web import steering
from web.config import Config, Control
from web.errors import ServeError

ROOT = Path(__file__).parents[1]
Heard = list[tuple[str, list[Any]]]


class Program:
    """Another program: sends OSC, and hears what comes back."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.to = ("127.0.0.1", port)

    @property
    def address(self) -> tuple[str, int]:
        place: tuple[str, int] = self.socket.getsockname()
        return place

    def say(self, where: str, *arguments: Any) -> None:
        self.socket.sendto(build_msg(where, list(arguments)).dgram, self.to)

    def raw(self, data: bytes) -> None:
        self.socket.sendto(data, self.to)

    def heard(self) -> Heard:
        found: Heard = []
        while True:
            try:
                data = self.socket.recv(65536)
            except BlockingIOError:
                return found
            found += [(m.message.address, list(m.message.params)) for m in OscPacket(data).messages]

    async def hear(self, where: str, seconds: float = PATIENCE_S) -> list[Any]:
        """The arguments of the next message there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for address, arguments in self.heard():
                if address == where:
                    return arguments
            await asyncio.sleep(0.01)
        raise AssertionError(f"{where} never came")


class Stage:
    """A hub that hears OSC, two sessions, and one program."""

    def __init__(self, hub: Hub, listening: osc.Osc) -> None:
        self.hub, self.osc = hub, listening
        assert listening.port is not None
        self.program = Program(listening.port)
        self.page, self.live = Steered(), Steered("live")
        self.desks = [hub.open(self.page), hub.open(self.live)]
        self.said: list[tuple[str, str]] = []
        hub.complain.listeners.append(lambda where, text: self.said.append((where, text)))

    async def until(self, what: Callable[[], bool]) -> None:
        try:
            await until(what)
        except AssertionError as error:
            error.add_note(f"said: {self.said}")
            raise

    async def follow(self, where: str, *arguments: Any) -> None:
        """Says something, and waits until it was followed."""
        before = self.osc.received
        self.program.say(where, *arguments)
        await self.until(lambda: self.osc.received > before)


@asynccontextmanager
async def stage(folder: Path, **options: Any) -> AsyncIterator[Stage]:
    hub = Hub(folder)
    listening = await osc.Osc.open(hub, osc.bound(("127.0.0.1", 0)), **options)
    made = Stage(hub, listening)
    jobs = [asyncio.ensure_future(job) for job in (hub.run(), listening.run())]
    try:
        yield made
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        listening.close()
        made.program.socket.close()
        await asyncio.sleep(0)


def on_stage(folder: Path, job: Callable[[Stage], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def whole() -> None:
        async with stage(folder, **options) as made:
            await job(made)

    run(whole())


# ------------------------------------------------------------------------------------------------- addresses


def test_every_address_of_the_table_does_what_it_says(tmp_path: Path) -> None:
    async def job(s: Stage) -> None:
        await s.follow("/livebrush/strength", 0.25)
        await s.until(lambda: s.live.settings.strength == 0.25)
        await s.follow("/livebrush/live/prompt", "neon | fog:0.5")
        await s.until(lambda: s.live.settings.prompt == "neon | fog:0.5")
        await s.follow("/livebrush/delta", 2.0, 0.1)
        await s.until(lambda: s.live.settings.delta == 2.0)
        s.hub.presets.save("look", {"steps": 3})
        await s.follow("/livebrush/preset", "look")
        await s.until(lambda: s.live.settings.steps == 3)
        await s.follow("/livebrush/steps", 1.0)
        await s.follow("/livebrush/live/preset", 0.0, 0.05)
        await s.until(lambda: s.live.settings.steps == 3)
        await s.follow("/livebrush/morph", 0.05, "strength", 0.9, "prompt", "oil")
        await s.until(lambda: (s.live.settings.strength, s.live.settings.prompt) == (0.9, "oil"))
        await s.follow("/livebrush/follow", "drift", "saw", 2, 0.1, 0.5, 0.25)
        follow = s.desks[1].follows["drift"]
        assert (follow.shape, follow.beats, follow.low, follow.high, follow.phase) == (
            "saw",
            2,
            pytest.approx(0.1),
            0.5,
            0.25,
        )
        await s.follow("/livebrush/follow", "drift", "off")
        assert not s.desks[1].follows
        await s.follow("/livebrush/bpm", 140)
        assert s.hub.beat.facts(0).bpm == 140
        await s.follow("/livebrush/tap")
        await s.follow("/livebrush/tap", 1.0)
        assert s.hub.beat.lead == "tap"
        revision = s.hub.beat.revision
        await s.follow("/livebrush/tap", 0.0)
        assert s.hub.beat.revision == revision, "a button that is let go is no beat"
        s.program.say("/livebrush/ping", 7, "x")
        assert await s.program.hear("/livebrush/pong") == [7, "x"]
        turned: list[tuple[str, float]] = []
        s.hub.turn_lora = lambda address, name, strength: turned.append((name, strength))
        await s.follow("/livebrush/lora/ink wash", 0.5)
        assert turned == [("ink wash", 0.5)]
        assert s.page.settings == Settings(), "nothing of one session reaches another"
        assert (s.said, s.osc.refused, s.osc.malformed) == ([], 0, 0)

    on_stage(tmp_path, job)


@pytest.mark.parametrize(
    ("where", "arguments", "said"),
    [
        ("/livebrush/colour", (1,), "'colour' is not a setting: use one of prompt"),
        ("/livebrush/nobody/strength", (1,), "session 'nobody' is not here: use one of live, or none"),
        ("/livebrush/strength", (), "strength needs a value: send one argument"),
        ("/livebrush/strength", (7.0,), "strength is 7.0: input should be less than or equal to 1"),
        ("/livebrush/strength", ("much",), "strength is 'much': input should be a valid number"),
        ("/livebrush/strength", (0.5, "long"), "argument 2 is 'long': expected the seconds, a number"),
        ("/livebrush/strength", (0.5, -1.0), "seconds -1 is not between 0 and 3600"),
        ("/livebrush/guidance", ("most",), "guidance is 'most'"),
        ("/livebrush/preset", ("nowhere",), "preset 'nowhere' is not here"),
        ("/livebrush/preset", (), "argument 1 is None: expected the preset, as text"),
        ("/livebrush/preset", (0.5,), "preset 0.5 is none: use its name, or a whole number"),
        ("/livebrush/preset", ("../../etc/passwd",), "preset name '../../etc/passwd' is none"),
        ("/livebrush/morph", (1.0, "strength"), "morph needs seconds, and then settings and values by turns"),
        ("/livebrush/morph", (1.0, "strength", 3.0), "strength is 3.0: input should be less"),
        ("/livebrush/follow", ("prompt", "sine"), "prompt cannot follow the beat"),
        ("/livebrush/follow", ("drift", "zigzag"), "shape of drift is 'zigzag'"),
        ("/livebrush/bpm", ("fast",), "argument 1 is 'fast': expected the bpm, a number"),
        ("/livebrush/bpm", (1e30,), "is not between 20 and 400"),
        ("/livebrush/lora/ink", (0.5,), "lora 'ink' is unknown here: start the server with --lora FILE:0"),
        ("/livebrush/a/b/c", (1,), "has too many parts"),
        ("/livebrush", (1,), "is not below /livebrush: use e.g. /livebrush/strength"),
        ("/other/strength", (1,), "is not below /livebrush"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_and_nothing_moves(tmp_path: Path, where: str, arguments: Any, said: str) -> None:
    async def job(s: Stage) -> None:
        s.program.say(where, *arguments)
        await s.until(lambda: bool(s.said))
        assert s.said[0][0] == where
        assert said in s.said[0][1]
        assert s.live.settings == Settings()

    on_stage(tmp_path, job)


def test_the_table_of_the_docs_is_the_code() -> None:
    text = (ROOT / "docs" / "control.md").read_text()
    for row in ADDRESSES:
        prefix = f"/livebrush/{row.path}"
        assert f"| `{prefix}` | {row.arguments} | {row.about} |" in text, f"docs/control.md lacks {prefix}"
    listed = re.findall(r"^\| `/livebrush/([^`]+)` \|", text.partition("### What is told")[0], re.MULTILINE)
    assert listed == [row.path for row in ADDRESSES]


# ------------------------------------------------------------------------------------------------- floods

FLOOD = """
import socket, sys, time
from pythonosc.osc_message_builder import build_msg
made = [build_msg("/livebrush/strength", [n / 10000]).dgram for n in range(10000)]
other = [build_msg("/livebrush/delta", [n / 5000]).dgram for n in range(10000)]
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
begin = time.perf_counter()
for n in range(5000):
    out.sendto(made[n], ("127.0.0.1", int(sys.argv[1])))
    out.sendto(other[n], ("127.0.0.1", int(sys.argv[1])))
    if n % 25 == 24:
        time.sleep(max(0.0, begin + (n + 1) / 2500 - time.perf_counter()))
for _ in range(5):  # UDP may lose the last one
    time.sleep(0.02)
    out.sendto(made[-1], ("127.0.0.1", int(sys.argv[1])))
"""


def test_a_flood_of_five_thousand_a_second_is_one_change_a_tick_and_the_newest_wins(tmp_path: Path) -> None:
    async def job(s: Stage) -> None:
        lags: list[float] = []
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", FLOOD, str(s.osc.port), cwd=ROOT)
        ended = asyncio.ensure_future(process.wait())
        while not ended.done():
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            lags.append(time.perf_counter() - before - 0.005)
        assert ended.result() == 0
        await s.until(lambda: s.live.settings.strength == pytest.approx(0.9999))
        assert s.osc.received > 5000, "of 10,000"
        assert len(s.live.asked) < s.osc.received / 10
        assert s.desks[1].coalesced + len(s.live.asked) > s.osc.received / 2
        lags.sort()
        assert lags[len(lags) // 2] < 0.1, "seconds; the median"
        assert lags[int(len(lags) * 0.95)] < 0.05
        assert s.said == []

    on_stage(tmp_path, job)


@pytest.mark.parametrize("size", [-4, -20, 0, 3, 2**31 - 4])
def test_an_element_of_a_bundle_that_is_not_as_long_as_it_says_costs_one_look(tmp_path: Path, size: int) -> None:
    """A negative size leads python-osc back to where it was, for ever."""
    inner = build_msg("/livebrush/steps", [3]).dgram
    head = b"#bundle\0" + struct.pack(">Q", 1)
    wrong = head + struct.pack(">i", size) + inner

    async def job(s: Stage) -> None:
        s.program.raw(wrong)
        s.program.raw(head + struct.pack(">i", len(wrong)) + wrong)
        await s.follow("/livebrush/steps", 4)
        await s.until(lambda: s.live.settings.steps == 4)
        assert s.osc.malformed == 2

    on_stage(tmp_path, job)


def nested(depth: int, inner: bytes = b"") -> bytes:
    """Bundles in bundles in bundles."""
    for _ in range(depth):
        inner = b"#bundle\0" + struct.pack(">Q", 1) + (struct.pack(">i", len(inner)) + inner if inner else b"")
    return inner


def test_bundles_in_bundles_are_followed_so_deep_and_no_deeper(tmp_path: Path) -> None:
    """Every level costs python-osc a look at all that is below it."""

    async def job(s: Stage) -> None:
        s.program.raw(nested(osc.DEEP + 1, build_msg("/livebrush/steps", [3]).dgram))
        s.program.raw(nested(osc.DEEP, build_msg("/livebrush/steps", [4]).dgram))
        await s.until(lambda: s.live.settings.steps == 4)
        assert s.osc.malformed == 1

    on_stage(tmp_path, job)


def test_a_burst_that_comes_while_the_loop_is_busy_waits_in_the_socket(tmp_path: Path) -> None:
    async def job(s: Stage) -> None:
        for n in range(400):  # a system gives a socket room for 270
            s.program.say("/livebrush/strength", n / 400)
        await s.until(lambda: s.osc.received == 400)
        await s.until(lambda: s.live.settings.strength == 399 / 400)

    on_stage(tmp_path, job)


def test_two_thousand_malformed_datagrams_are_counted_and_harm_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Mutated messages and bundles, noise, and bundles in bundles in bundles."""
    rng = random.Random(6)
    bundle = OscBundleBuilder(IMMEDIATELY)
    bundle.add_content(build_msg("/livebrush/strength", [0.5]))  # type: ignore[arg-type]
    seeds = [build_msg("/livebrush/strength", [0.5]).dgram, build_msg("/livebrush/morph", [1.0, "prompt", "x"]).dgram,
             build_msg("/livebrush/preset", ["x"]).dgram, bundle.build().dgram, nested(700)]  # fmt: skip

    def mutated() -> bytes:
        data = bytearray(rng.choice(seeds) if rng.random() < 0.8 else rng.randbytes(rng.randrange(200)))
        for _ in range(rng.randrange(8)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.3 else data)

    async def job(s: Stage) -> None:
        caplog.clear()
        for n in range(2000):
            s.program.raw(mutated())
            if n % 20 == 0:
                await asyncio.sleep(0.001)
        s.program.raw(b"x" * 60_000)
        s.program.raw(b"")

        def is_followed() -> bool:
            s.program.say("/livebrush/steps", 4)  # again and again, as faders do: a socket that is full loses some
            return s.live.settings.steps == 4

        await s.until(is_followed)
        assert s.osc.malformed > 500
        assert Settings.checked(**s.live.settings.model_dump()) == s.live.settings
        assert len(s.osc._later) <= osc.LATER
        assert not [record for record in caplog.records if "pythonosc" in record.pathname], "no log line a datagram"

    on_stage(tmp_path, job)


def test_a_bundle_comes_at_its_time_and_one_too_far_ahead_never(tmp_path: Path) -> None:
    def bundle(at: float, value: float) -> bytes:
        made = OscBundleBuilder(at)  # type: ignore[arg-type]
        made.add_content(build_msg("/livebrush/strength", [value]))  # type: ignore[arg-type]
        made.add_content(build_msg("/livebrush/delta", [value]))  # type: ignore[arg-type]
        return made.build().dgram

    async def job(s: Stage) -> None:
        begin = time.time()
        s.program.raw(bundle(begin + 0.4, 0.5))
        s.program.raw(bundle(begin + 3600, 0.9))
        s.program.raw(bundle(begin - 3600, 0.25))
        await s.until(lambda: s.live.settings.strength == 0.25)
        await s.until(lambda: s.live.settings.strength == 0.5)
        assert time.time() - begin >= 0.4
        await s.until(lambda: s.live.settings.delta == 0.5)
        assert "its time is 36" in s.said[0][1]

    on_stage(tmp_path, job)


# ------------------------------------------------------------------------------------------------- what is told


def test_whoever_subscribes_hears_everything_and_then_what_changes(tmp_path: Path) -> None:
    async def job(s: Stage) -> None:
        s.program.say("/livebrush/subscribe")
        heard: dict[str, list[Any]] = {}
        await s.until(lambda: heard.update(s.program.heard()) or "/livebrush/live/fps" in heard)  # type: ignore[func-returns-value]
        assert heard["/livebrush/strength"] == [pytest.approx(0.4)]
        assert heard["/livebrush/live/strength"] == [pytest.approx(0.4)]
        assert (heard["/livebrush/live/state"], heard["/livebrush/fps"]) == (["painting"], [30.0])
        assert heard["/livebrush/t_index"] == [""]
        await s.follow("/livebrush/strength", 0.75)
        assert await s.program.hear("/livebrush/live/strength") == [0.75]
        await s.follow("/livebrush/bpm", 300)
        first = await s.program.hear("/livebrush/beat")
        assert (await s.program.hear("/livebrush/beat"))[0] > first[0]
        s.program.say("/livebrush/strength", 9.0)
        assert (await s.program.hear("/livebrush/error"))[0] == "/livebrush/strength"
        s.program.say("/livebrush/unsubscribe")
        await s.until(lambda: not s.osc.subscribers)
        s.program.heard()
        await s.follow("/livebrush/strength", 0.1)
        await asyncio.sleep(0.15)
        assert s.program.heard() == []

    on_stage(tmp_path, job)


def test_subscribers_lapse_and_are_eight_at_most(tmp_path: Path) -> None:
    async def job() -> None:
        now = [0.0]
        hub = Hub(tmp_path, clock=lambda: now[0])
        listening = await osc.Osc.open(hub, osc.bound(("127.0.0.1", 0)))
        assert listening.port is not None
        programs = [Program(listening.port) for _ in range(10)]
        said: list[str] = []
        hub.complain.listeners.append(lambda where, text: said.append(text))
        for one in programs:
            one.say("/livebrush/subscribe")
        while listening.received < 10:
            await asyncio.sleep(0.005)
        assert len(listening.subscribers) == 8
        assert "8 listen already" in said[0]
        now[0] = 50.0
        programs[0].say("/livebrush/subscribe")
        while listening.received < 11:
            await asyncio.sleep(0.005)
        now[0] = 61.0
        assert listening.subscribers == [programs[0].address], "asked again"
        now[0] = 111.0
        assert listening.subscribers == []
        listening.close()
        for one in programs:
            one.socket.close()
        await asyncio.sleep(0)

    run(job())


def test_what_is_named_at_the_start_hears_without_asking_and_secrets_stay(tmp_path: Path) -> None:
    receiver = Program(1)

    async def job(s: Stage) -> None:
        assert await receiver.hear("/livebrush/strength") == [pytest.approx(0.4)]
        await s.follow("/livebrush/strength", 0.75)
        heard: Heard = []
        await s.until(lambda: bool(heard.extend(receiver.heard())) or ("/livebrush/strength", [0.75]) in heard)  # type: ignore[func-returns-value]
        places = {where.split("/")[2] for where, _ in heard}
        assert places <= {*Settings.model_fields, "live", "state", "fps", "beat", "bpm"}

    on_stage(tmp_path, job, out=[receiver.address])
    receiver.socket.close()


# ------------------------------------------------------------------------------------------------- where it listens


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("9000", ("127.0.0.1", 9000)),
        ("0.0.0.0:9000", ("0.0.0.0", 9000)),
        ("[::1]:7", ("::1", 7)),
        ("stage:8", ("stage", 8)),
    ],
)
def test_addresses(text: str, place: tuple[str, int]) -> None:
    assert osc.address(text) == place


@pytest.mark.parametrize("text", ["", "x", "0", "65536", ":9000", "host:", "-1", "1.5", "host:x", "٣"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ControlError, match="is none: use a port"):
        osc.address(text)


def test_off_this_machine_only_where_everybody_may() -> None:
    with pytest.raises(ServeError, match="OSC knows no passwords: use a port alone"):
        steering.check(Config(control=Control(osc="0.0.0.0:9000")))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ControlError, match=f"osc cannot be heard on 127.0.0.1:{port}"):
            steering.check(Config(control=Control(osc=str(port))))
    steering.check(Config(control=Control(osc=str(port))))
    steering.check(Config(insecure=True, control=Control(osc=f"0.0.0.0:{port}")))
    with pytest.raises(ControlError, match="is none: use a port"):
        steering.check(Config(control=Control(osc_out=("nowhere",))))


def test_the_command_says_what_is_wrong_before_it_starts() -> None:
    command = [sys.executable, "livebrush.py", "serve", "--osc", "0.0.0.0:9000", "--port", "0", "--no-open"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "OSC knows no passwords" in " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("osc")
    with served(control=Control(osc=str(port), folder=folder)) as running:
        yield running


def test_osc_steers_a_served_session_and_its_facts_are_told(server: Served) -> None:
    server.call(lambda: server.house.sessions.stand("live", "whip"))
    port = server.http.get("/api/osc").json()["port"]
    program = Program(port)
    program.say("/livebrush/strength", 0.625)
    program.raw(b"nonsense")
    comes_to(lambda: server.http.get("/api/sessions/live").json()["settings"]["strength"] == 0.625)
    comes_to(lambda: server.http.get("/api/osc").json()["malformed"])
    facts = server.http.get("/api/osc").json()
    assert (facts["received"], facts["malformed"], facts["refused"], facts["subscribers"]) == (1, 1, 0, 0)
    program.socket.close()


def test_the_router_needs_no_socket(tmp_path: Path) -> None:
    hub, answers = Hub(tmp_path), []
    router = addresses.Router(hub, lambda to, where, args: answers.append((to, where, list(args))), print, print)
    assert router.follow("/livebrush/ping", (1,), ("h", 1))
    assert answers == [(("h", 1), "/livebrush/pong", [1])]
    assert not router.follow("/livebrush/strength", (0.5,), ("h", 1)), "no session is here"
