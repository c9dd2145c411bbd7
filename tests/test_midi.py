"""MIDI: what controllers move, what is learnt, clocks, and ports that come and go; with a back end of mido by hand."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import midi_ports
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from mido import Message
from mido.sockets import PortServer
from mido.sockets import connect as reach
from test_control import Steered
from waiting import comes_to, run, until
from webrig import served

from stream.control import link, midi
from stream.control.bindings import Binding, Bindings
from stream.control.hub import Hub
from stream.control.midi import Midi
from stream.errors import ControlError
from stream.settings import Settings
from web.config import Control


@pytest.fixture(autouse=True)
def no_ports() -> Iterator[None]:
    yield
    midi_ports.forget()


class Rig:
    """MIDI without a port: messages by hand, at times by hand."""

    def __init__(self, folder: Path, *bindings: Binding, **settings: Any) -> None:
        self.now = 100.0
        self.hub = Hub(folder, clock=lambda: self.now)
        self.steered = Steered(**settings)
        self.desk = self.hub.open(self.steered)
        self.midi = Midi(self.hub, Bindings(folder))
        self.said: list[tuple[str, str]] = []
        self.hub.complain.listeners.append(lambda where, text: self.said.append((where, text)))
        if bindings:
            self.midi.bindings.replace(bindings)

    @property
    def settings(self) -> Settings:
        return self.steered.settings

    def play(self, *messages: Message, wait: float = 0.1) -> None:
        """Each so many seconds after the other."""
        for message in messages:
            self.now += wait
            self.midi.received(message, self.now)
            self.desk.tick(self.now)

    def knob(self, *positions: int, number: int = 7, channel: int = 0) -> None:
        self.play(*(Message("control_change", channel=channel, control=number, value=v) for v in positions))


def cc(setting: str, **more: Any) -> Binding:
    return Binding(setting=setting, number=more.pop("number", 7), **more)


# ------------------------------------------------------------------------------------------------- controllers


def test_a_knob_goes_through_the_whole_range_of_its_setting(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cc("guidance_scale"), cc("steps", number=8), cc("fit", number=9), cc("similarity", number=10))
    rig.knob(0)
    assert rig.settings.guidance_scale == 1
    rig.knob(127)
    assert rig.settings.guidance_scale == 20
    seen = []
    for position in range(128):
        rig.knob(position, number=8)
        rig.knob(position, number=9)
        seen.append((rig.settings.steps, rig.settings.fit))
    assert sorted({steps for steps, _ in seen}) == list(range(1, 9))
    assert list(dict.fromkeys(fit for _, fit in seen)) == ["crop", "stretch", "pad"]
    rig.knob(63, number=10)
    assert not rig.settings.similarity
    rig.knob(64, number=10)
    assert rig.settings.similarity
    assert not rig.said


def test_only_its_own_channel_and_number_and_only_within_low_and_high(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cc("strength", channel=2, low=0.6, high=0.2))
    rig.knob(127)
    rig.knob(127, number=8, channel=2)
    assert rig.settings.strength == 0.4
    rig.knob(127, channel=2)
    assert rig.settings.strength == 0.2
    rig.knob(0, channel=2)
    assert rig.settings.strength == 0.6
    rig.play(Message("pitchwheel", pitch=0), Message("note_on", note=7, velocity=9), Message("aftertouch", value=3))
    assert rig.settings.strength == 0.6


def test_fourteen_bits_are_finer_than_seven(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cc("strength", kind="cc14", number=3))
    values = set()
    for coarse in (40, 41):
        rig.knob(coarse, number=3)
        for fine in range(0, 128, 16):
            rig.knob(fine, number=35)
            values.add(rig.settings.strength)
    assert len(values) == 16
    rig.knob(127, number=3)
    rig.knob(127, number=35)
    assert rig.settings.strength == 1.0
    rig.knob(5, number=36)
    assert rig.settings.strength == 1.0, "the finer one of nothing"


@pytest.mark.parametrize(("mode", "right", "left"), [("twos", 1, 127), ("offset", 65, 63), ("sign", 1, 65)])
def test_encoders_without_end(tmp_path: Path, mode: str, right: int, left: int) -> None:
    rig = Rig(tmp_path, cc("strength", mode=mode), cc("steps", mode=mode, number=8), strength=0.5)
    rig.knob(*[right] * 10)
    assert rig.settings.strength == pytest.approx(0.5 + 10 / 127)
    rig.knob(*[left] * 20)
    assert rig.settings.strength == pytest.approx(0.5 - 10 / 127)
    rig.knob(*[left] * 200)
    assert rig.settings.strength == 0
    rig.knob(right)
    assert rig.settings.strength == pytest.approx(1 / 127), "no slack at the end"
    rig.hub.set("strength", 0.9)
    rig.knob(right)
    assert rig.settings.strength == pytest.approx(0.9 + 1 / 127), "from where it is, whoever put it there"
    rig.knob(*[right] * 127, number=8)
    assert rig.settings.steps == 8, "single steps add up, though each is less than a whole number"


def test_soft_take_over_waits_until_the_knob_meets_the_value(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cc("strength", takeover=True), strength=0.5)
    rig.knob(0, 10, 20, 40)
    assert rig.settings.strength == 0.5, "it is elsewhere: nothing jumps"
    rig.knob(62, 70, 90)
    assert rig.settings.strength == pytest.approx(90 / 127), "it met it, and holds it"
    rig.hub.set("strength", 0.1)
    rig.knob(91, 95)
    assert rig.settings.strength == 0.1, "somebody else moved it: it must meet again"
    rig.knob(50, 3)
    assert rig.settings.strength == pytest.approx(3 / 127), "went past it between two messages"


def test_a_knob_keeps_its_hold_while_the_worker_has_not_answered(tmp_path: Path) -> None:
    rig = Rig(tmp_path, cc("strength", takeover=True), strength=0.5)
    rig.steered.later = []
    rig.knob(63, 70, 80)
    assert [change["strength"] for change in rig.steered.asked] == pytest.approx([63 / 127, 70 / 127, 80 / 127])


def test_keys_switch_choose_and_strike(tmp_path: Path) -> None:
    def key(setting: str, note: int) -> Binding:
        return Binding(setting=setting, kind="note", number=note)

    rig = Rig(
        tmp_path, key("similarity", 60), key("fit", 61), key("strength", 62), key("tap", 63), key("preset:Look", 64)
    )
    rig.hub.presets.save("Look", {"prompt": "neon"})

    def press(note: int, velocity: int = 100) -> None:
        rig.play(Message("note_on", note=note, velocity=velocity), Message("note_off", note=note))

    press(60)
    assert rig.settings.similarity
    press(60)
    assert not rig.settings.similarity
    for fit in ("stretch", "pad", "crop"):
        press(61)
        assert rig.settings.fit == fit
    press(62, 127)
    assert rig.settings.strength == 1.0
    press(62, 0)
    assert rig.settings.strength == 1.0, "velocity 0 lets go"
    press(63)
    rig.now += 0.3
    press(63)
    assert rig.hub.beat.facts(rig.now).bpm == pytest.approx(120)
    press(64)
    assert rig.settings.prompt == "neon"
    assert not rig.said


def test_the_wheel_and_programs(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Binding(setting="drift", kind="pitch"))
    rig.play(Message("pitchwheel", pitch=-8192))
    assert rig.settings.drift == 0
    rig.play(Message("pitchwheel", pitch=8191))
    assert rig.settings.drift == 1
    rig.hub.presets.save("01", {"strength": 0.11})
    rig.hub.presets.save("02", {"strength": 0.22})
    rig.play(Message("program_change", program=1))
    assert rig.settings.strength == 0.22
    rig.play(Message("program_change", program=0))
    assert rig.settings.strength == 0.11
    rig.play(Message("program_change", program=127))
    assert "preset 127 is not here" in rig.said[0][1]


def test_the_clock_leads_the_beat(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.play(Message("start"))
    rig.play(*[Message("clock")] * 96, wait=60 / 140 / 24)
    assert rig.hub.beat.facts(rig.now).bpm == pytest.approx(140)
    assert rig.hub.beat.position(rig.now) == pytest.approx(95 / 24, abs=0.05)
    rig.play(Message("stop"))
    stands = rig.hub.beat.position(rig.now)
    rig.play(Message("songpos", pos=16), Message("continue"))
    assert stands < 4.3
    assert rig.hub.beat.position(rig.now) == pytest.approx(4.0)


MESSAGES = st.one_of(
    st.builds(lambda c, n, v: Message("control_change", channel=c, control=n, value=v), st.integers(0, 1),
              st.sampled_from([3, 7, 35]), st.integers(0, 127)),
    st.builds(lambda n, v: Message("note_on", note=n, velocity=v), st.integers(58, 66), st.integers(0, 127)),
    st.builds(lambda p: Message("pitchwheel", pitch=p), st.integers(-8192, 8191)),
    st.builds(lambda p: Message("program_change", program=p), st.integers(0, 127)),
    st.sampled_from([Message(kind) for kind in
                     ("clock", "start", "stop", "continue", "reset", "active_sensing", "tune_request")]),
    st.builds(lambda data: Message("sysex", data=data), st.lists(st.integers(0, 127), max_size=8)),
)  # fmt: skip


@given(st.lists(MESSAGES, max_size=60))
@hypothesis(max_examples=60, deadline=None)
def test_whatever_is_played_the_settings_are_right(
    tmp_path_factory: pytest.TempPathFactory, played: list[Message]
) -> None:
    every = [cc("strength", takeover=True), cc("delta", kind="cc14", number=3), Binding(setting="width", kind="pitch"),
             Binding(setting="guidance", kind="note", number=60), Binding(setting="seed", kind="note", number=61),
             cc("steps", mode="twos"), Binding(setting="preset:gone", kind="note", number=62)]  # fmt: skip
    rig = Rig(tmp_path_factory.mktemp("played"), *every)
    rig.play(*played, wait=0.01)
    assert Settings.checked(**rig.settings.model_dump()) == rig.settings
    assert all("preset" in text for _, text in rig.said), rig.said


# ------------------------------------------------------------------------------------------------- learning


def test_the_next_controller_is_bound_and_kept(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.midi.learn("strength", takeover=True)
    rig.play(Message("clock"), Message("note_off", note=3), Message("aftertouch", value=1))
    assert rig.midi.learning == "strength", "none of these is a controller"
    rig.knob(20, number=21, channel=4)
    assert rig.midi.learning is None
    assert Bindings(tmp_path).all == (Binding(setting="strength", number=21, channel=4, takeover=True),)
    assert rig.settings.strength == 0.4, "learning moves nothing"
    rig.midi.learn("delta")
    rig.knob(3, number=21, channel=4)
    assert Bindings(tmp_path).all == (Binding(setting="delta", number=21, channel=4),), "a knob does one thing"
    rig.midi.learn("delta")
    rig.play(Message("pitchwheel", pitch=5))
    assert Bindings(tmp_path).all == (Binding(setting="delta", kind="pitch"),), "a setting has one knob"
    rig.midi.learn("tap")
    rig.play(Message("note_on", note=40, velocity=9))
    rig.midi.learn("preset:Neon night")
    rig.play(Message("note_on", note=41, velocity=9))
    assert [b.setting for b in Bindings(tmp_path).all] == ["delta", "tap", "preset:Neon night"]


def test_what_cannot_be_learnt_says_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for setting in ("prompt", "t_index", "nothing"):
        with pytest.raises(ControlError):
            rig.midi.learn(setting)
    rig.midi.learn("strength")
    rig.midi.learn(None)
    rig.knob(5)
    assert rig.midi.bindings.all == ()


# ------------------------------------------------------------------------------------------------- ports


def on_ports(folder: Path, wanted: str, job: Callable[[Midi, Steered], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        hub, steered = Hub(folder), Steered()
        hub.open(steered)
        made = Midi(hub, Bindings(folder), midi.load("midi_ports"), wanted)
        made.bindings.replace((cc("strength"),))
        jobs = [asyncio.ensure_future(made.run()), asyncio.ensure_future(hub.run())]
        try:
            await job(made, steered)
        finally:
            for one in jobs:
                one.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        assert midi_ports.opened == {}, "all are let go"

    run(whole())


def test_ports_come_and_go_while_it_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(midi, "LOOK_S", 0.02)

    async def job(made: Midi, steered: Steered) -> None:
        await until(lambda: made.trouble)
        assert made.trouble == "no MIDI input is here"
        midi_ports.there.append("nanoKONTROL2")
        await until(lambda: made.ports == ["nanoKONTROL2"])
        assert made.trouble == ""
        knob = midi_ports.opened["nanoKONTROL2"]
        turns = [Message("control_change", control=7, value=v) for v in (1, 64, 127)]
        threading.Thread(target=knob.play, args=turns).start()
        await until(lambda: steered.settings.strength == 1.0)
        midi_ports.taken.add("Launchpad")
        midi_ports.there[:] = ["Launchpad"]
        await until(lambda: made.ports == [])
        await until(lambda: "Launchpad cannot be opened: Launchpad is taken" in made.trouble)
        midi_ports.taken.clear()
        await until(lambda: made.ports == ["Launchpad"])
        midi_ports.broken.append(OSError("no sequencer"))
        await until(lambda: "no sequencer" in made.trouble)
        midi_ports.broken.clear()
        await until(lambda: made.ports == ["Launchpad"])
        revision = made.revision
        await asyncio.sleep(0.1)
        assert made.revision == revision, "nothing new is nothing to tell"

    on_ports(tmp_path, "all", job)


def test_only_the_ports_that_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(midi, "LOOK_S", 0.02)
    midi_ports.there[:] = ["Midi Through", "nanoKONTROL2 SLIDER", "nanoKONTROL2 SLIDER"]

    async def job(made: Midi, _steered: Steered) -> None:
        await until(lambda: made.ports)
        assert made.ports == ["nanoKONTROL2 SLIDER"]

    on_ports(tmp_path, "nanokontrol", job)


def test_messages_over_midos_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on the network: bytes through mido's own parser, into the port."""
    monkeypatch.setattr(midi, "LOOK_S", 0.02)
    midi_ports.there.append("network")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]

    async def job(made: Midi, steered: Steered) -> None:
        await until(lambda: made.ports)
        with PortServer("127.0.0.1", number) as server:
            device = await asyncio.to_thread(reach, "127.0.0.1", number)
            accepted = await asyncio.to_thread(server.accept)
            for value in (0, 50, 127):
                device.send(Message("control_change", control=7, value=value))
            came: list[Message] = []
            await until(lambda: came.extend(accepted.iter_pending()) or len(came) == 3)
            midi_ports.opened["network"].play(*came)
            await until(lambda: steered.settings.strength == 1.0)
            device.close()
            accepted.close()

    on_ports(tmp_path, "all", job)


def test_a_library_that_is_not_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ControlError, match=r"pip install 'livebrush\[midi\]'"):
        midi.load("no_such_backend")
    monkeypatch.setitem(sys.modules, "aalink", None)
    with pytest.raises(ControlError, match=r"pip install 'livebrush\[link\]'"):
        link.load()


def test_a_served_page_learns_a_knob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(midi, "LOOK_S", 0.02)
    monkeypatch.setenv("MIDO_BACKEND", "midi_ports")
    midi_ports.there.append("knobs")
    with served(control=Control(midi="all", folder=tmp_path)) as server:
        server.call(lambda: server.house.sessions.stand("live", "whip"))
        http = server.http
        comes_to(lambda: http.get("/api/midi").json()["ports"] == ["knobs"])
        assert http.post("/api/midi/learn", json={"setting": "strength"}).json()["learning"] == "strength"
        knob = midi_ports.opened["knobs"]
        knob.play(Message("control_change", control=5, value=1))
        comes_to(lambda: http.get("/api/midi").json()["learning"] is None)
        knob.play(Message("control_change", control=5, value=127))
        comes_to(lambda: http.get("/api/sessions/live").json()["settings"]["strength"] == 1.0)
        facts = http.get("/api/midi").json()
        assert facts["bindings"][0]["number"] == 5
        assert facts["last"] == "controller 5, channel 1"


# ------------------------------------------------------------------------------------------------- Ableton Link


class FakeLink:
    """aalink's Link, by hand."""

    made: FakeLink

    def __init__(self, bpm: float) -> None:
        self.tempo, self.beat, self.num_peers, self.enabled, self.requested = bpm, 0.0, 0, False, -1.0
        FakeLink.made = self

    def request_beat(self, beat: float) -> None:
        self.requested = beat


class Aalink:
    Link = FakeLink


def test_the_tempo_of_the_network_leads_and_ours_becomes_everybodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "LOOK_S", 0.01)

    async def job() -> None:
        hub = Hub(tmp_path)
        task = asyncio.ensure_future(link.Link(hub, Aalink).run())
        await asyncio.sleep(0.05)
        net = FakeLink.made
        assert net.enabled
        assert hub.beat.lead == "none", "alone on the network nobody leads"
        net.num_peers, net.tempo, net.beat = 1, 133.0, 17.5
        await until(lambda: hub.beat.lead == "link")
        assert hub.beat.facts(hub.clock()).bpm == 133
        assert hub.beat.position(hub.clock()) == pytest.approx(17.5, abs=0.2)
        hub.beat.set(99, hub.clock())
        await until(lambda: net.tempo == 99)
        assert net.requested == pytest.approx(17.5, abs=1)
        await until(lambda: hub.beat.lead == "link")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not net.enabled

    run(job())


def test_the_library_itself_is_as_it_is_used_here(tmp_path: Path) -> None:
    """aalink, where it is installed: two peers in this process may or may not see each other; its names must hold."""
    library = pytest.importorskip("aalink")

    async def job() -> None:
        hub = Hub(tmp_path)
        hub.beat.set(111, hub.clock())
        one = link.Link(hub, library)
        task = asyncio.ensure_future(one.run())
        await asyncio.sleep(0.2)
        assert not task.done(), task
        hub.beat.set(125, hub.clock())
        await asyncio.sleep(0.15)
        assert not task.done(), task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(job())
