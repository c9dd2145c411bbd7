"""The desk and the hub: newest wins, morphs, followers; and the same over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from waiting import PATIENCE_S, comes_to, run
from webrig import FakeSupervisor, Room, Served, served
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from stream.config import Lora, ModelSpec
from stream.control import values
from stream.control.beat import Beat
from stream.control.desk import TICK_S, Desk
from stream.control.follow import Follow
from stream.control.hub import Hub
from stream.control.morph import Morph, eased
from stream.errors import ControlError, SettingsError
from stream.grammar import parse
from stream.settings import PROMPT_LIMIT, Settings
from web.config import Access, Control
from web.wishes import Tell, changed


class Steered:
    """A session by hand: what it is asked for holds at once, unless `error` is set."""

    def __init__(self, name: str | None = None, **settings: Any) -> None:
        self.name, self.settings = name, Settings.checked(**settings)
        self.state, self.fps = "painting", 30.0
        self.asked: list[dict[str, Any]] = []
        self.loud: list[bool] = []
        self.error: str | None = None
        self.later: list[Callable[[], None]] | None = None  # answers that are held back

    def steer(self, changes: Mapping[str, Any], tell: Tell, *, quietly: bool = False) -> None:
        wanted = changed(self.settings, changes)
        self.asked.append(dict(changes))
        self.loud.append(not quietly)
        if self.later is not None:
            self.later.append(lambda: tell(wanted, self.error))
            return
        if self.error is None:
            self.settings = wanted
        tell(self.settings, self.error)


class Table:
    """A desk with everything around it by hand."""

    def __init__(self, **settings: Any) -> None:
        self.steered, self.beat = Steered(**settings), Beat()
        self.said: list[tuple[str, str]] = []
        self.woken = 0
        self.desk = Desk(self.steered, self.beat, lambda where, text: self.said.append((where, text)), self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def run(self, begin: float, end: float, step: float = TICK_S) -> None:
        """Ticks from `begin` to `end`."""
        for n in range(round((end - begin) / step) + 1):
            self.desk.tick(begin + n * step)


# ------------------------------------------------------------------------------------------------- hands


def test_a_hand_goes_out_at_once_and_a_flood_once_a_tick() -> None:
    table = Table()
    table.desk.set("strength", 0.1, 10.0)
    assert table.steered.asked == [{"strength": 0.1}], "nothing went out within the tick: no waiting"
    for n in range(5000):
        table.desk.set("strength", n / 5000, 10.0 + n * 1e-6)
        table.desk.set("delta", n / 5000, 10.0 + n * 1e-6)
    assert len(table.steered.asked) == 1
    assert table.woken
    table.desk.tick(10.0 + TICK_S)
    assert table.steered.asked[1:] == [{"strength": 4999 / 5000, "delta": 4999 / 5000}], "the newest, in one change"
    assert table.desk.coalesced == 2 * 4999
    assert not table.desk.busy


def test_a_value_that_is_wrong_is_told_and_the_others_hold() -> None:
    table = Table()
    table.desk.set("strength", 0.1, 10.0, "/livebrush/strength")
    table.desk.set("strength", 7, 10.001, "/livebrush/strength")
    table.desk.set("delta", 1.5, 10.001, "/livebrush/delta")
    table.desk.tick(10.1)
    assert table.steered.settings.delta == 1.5
    assert table.said == [("/livebrush/strength", "strength is 7: input should be less than or equal to 1")]
    table.desk.set("steps", 3, 10.2)
    assert table.steered.settings.steps == 3, "and what comes next is as good as ever"


def test_what_the_worker_refuses_is_told_as_well() -> None:
    table = Table()
    table.steered.error = "width 264 is not a multiple of 64: use 256"
    table.desk.set("width", 264, 10.0, "midi width")
    assert table.said == [("midi width", "width 264 is not a multiple of 64: use 256")]


def test_what_is_under_way_is_what_a_knob_sees() -> None:
    table = Table(strength=0.4)
    table.steered.later = []
    table.desk.set("strength", 0.7, 10.0)
    assert table.desk.value("strength") == 0.7, "sent, and not answered yet"
    table.desk.set("strength", 0.8, 10.001)
    assert table.desk.value("strength") == 0.8, "waits for the tick"
    table.desk.tick(10.1)
    for answer in table.steered.later:
        answer()
    assert table.desk.value("strength") == 0.4, "what holds (the worker by hand changed nothing)"


@pytest.mark.parametrize(
    ("name", "given_", "meant"),
    [
        ("steps", 3.4, 3), ("steps", 2.0, 2), ("steps", True, 1), ("similarity", 0.7, True), ("similarity", 0, False),
        ("similarity", "off", False), ("guidance", 1.0, "full"), ("guidance", "self", "self"), ("fit", 2, "pad"),
        ("t_index", "32, 45", ["32", "45"]), ("t_index", "", None), ("t_index", 45.0, [45]), ("strength", "0.5", "0.5"),
        ("strength", 0.5, 0.5), ("prompt", "neon", "neon"), ("seed", 7.0, 7),
    ],
)  # fmt: skip
def test_values_as_controllers_send_them(name: str, given_: Any, meant: Any) -> None:
    assert values.meant(name, given_) == meant
    if name != "t_index" or given_:
        values.checked({name: values.meant(name, given_)})


@pytest.mark.parametrize(
    ("name", "given_", "said"),
    [
        ("colour", 1, "'colour' is not a setting: use one of prompt,"),
        ("guidance", 9, "guidance is 9: expected one of none, full, self, initialize, or 0 to 3"),
        ("guidance", float("nan"), "guidance is nan"),
        ("similarity", "maybe", "similarity is 'maybe': expected on or off, or 1 or 0"),
        ("similarity", None, "similarity is None"),
    ],
)
def test_values_that_mean_nothing(name: str, given_: Any, said: str) -> None:
    with pytest.raises(ControlError) as raised:
        Table().desk.set(name, given_, 1.0)
    assert said in str(raised.value)


ANY = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=8),
                st.lists(st.integers(), max_size=3))  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from([*Settings.model_fields, "x", ""]), ANY, st.floats(0, 1)), max_size=30))
@hypothesis(max_examples=200, deadline=None)
def test_whatever_comes_the_settings_are_right(moves: list[tuple[str, Any, float]]) -> None:
    table, now = Table(), 1.0
    for name, value, wait in moves:
        now += wait * 0.03
        with contextlib.suppress(ControlError):
            table.desk.set(name, value, now)
    table.desk.tick(now + 1)
    assert Settings.checked(**table.steered.settings.model_dump()) == table.steered.settings
    assert not table.desk.busy


@pytest.mark.parametrize("name", [n for n in Settings.model_fields if n in values.turned()])
def test_a_knob_reaches_both_ends_of_every_setting_and_back(name: str) -> None:
    low, high = values.limits(name)
    for part in (0.0, 0.25, 0.5, 1.0):
        made = values.scaled(name, part)
        values.checked({name: made})
        step = max(1, values.facts()[name].get("multipleOf", 1)) / (high - low) if name != "seed" else 1e-6
        assert values.unit(name, made) == pytest.approx(part, abs=max(0.51 * step, 0.5 if high - low == 1 else 0, 1e-3))
    assert values.scaled(name, 0.0) == values.meant(name, low)


# ------------------------------------------------------------------------------------------------- morphs


def test_a_morph_glides_blends_and_leaps_and_ends_as_exactly_the_target() -> None:
    table = Table(prompt="oil", strength=0.2, seed=1, steps=1, fit="crop")
    target = {"prompt": "ink|fog:0.5", "strength": 0.8, "seed": 9, "steps": 5, "fit": "pad", "similarity": True}
    table.desk.morph(target, 4.0, 100.0)
    table.run(100.0, 101.0)
    early = table.steered.settings
    assert early.strength == pytest.approx(0.2 + 0.6 * eased(0.25))
    assert {text for text, _ in parse(early.prompt)} == {"oil", "ink", "fog"}
    assert (early.seed, early.fit, early.similarity, early.steps) == (1, "crop", False, 2)
    table.run(101.0, 102.0)
    assert (table.steered.settings.seed, table.steered.settings.fit, table.steered.settings.similarity) == (
        9,
        "pad",
        True,
    )
    table.run(102.0, 104.1)
    assert {name: getattr(table.steered.settings, name) for name in target} == target
    assert not table.desk.busy
    assert not any(table.steered.loud[1:]), "pages are not told of every step"
    assert not table.said


def test_a_morph_moves_every_tick_and_never_back() -> None:
    table = Table(strength=0.1)
    table.desk.morph({"strength": 0.9}, 1.0, 5.0)
    table.run(5.0, 6.05)
    way = [change["strength"] for change in table.steered.asked]
    assert way == sorted(way)
    assert 58 <= len(way) <= 63
    assert max(b - a for a, b in pairwise(way)) < 0.8 / 60 * 1.6


def test_a_hand_takes_its_setting_out_of_the_morph_alone() -> None:
    table = Table(strength=0.0, delta=0.0)
    table.desk.morph({"strength": 1.0, "delta": 2.0}, 2.0, 10.0)
    table.run(10.0, 10.5)
    table.desk.set("strength", 0.33, 10.51)
    table.run(10.52, 12.1)
    assert (table.steered.settings.strength, table.steered.settings.delta) == (0.33, 2.0)


def test_a_page_is_a_hand_too() -> None:
    table = Table(strength=0.0)
    table.desk.morph({"strength": 1.0}, 2.0, 10.0)
    table.desk.by_hand(["strength"], 10.5)
    assert not table.desk.busy
    assert table.desk.touched == 10.5


def test_a_newer_morph_takes_over_from_where_it_is() -> None:
    table = Table(strength=0.0, delta=0.0)
    table.desk.morph({"strength": 1.0, "delta": 2.0}, 2.0, 10.0)
    table.run(10.0, 11.0)
    assert table.steered.settings.strength == pytest.approx(0.5, abs=0.02)
    table.desk.morph({"strength": 0.0}, 1.0, 11.0)
    table.run(11.0, 11.1)
    assert table.steered.settings.strength == pytest.approx(0.5, abs=0.03), "no jump"
    table.run(11.1, 12.1)
    assert (table.steered.settings.strength, table.steered.settings.delta) == (0.0, 2.0)


def test_indices_change_half_way_and_strength_does_not_disturb_them() -> None:
    table = Table(t_index=[32, 45], strength=0.4)
    table.desk.morph({"t_index": None, "strength": 0.8, "delta": 2.0}, 2.0, 10.0)
    table.run(10.0, 10.9)
    assert table.steered.settings.t_index == (32, 45)
    table.run(10.9, 12.1)
    assert (table.steered.settings.t_index, table.steered.settings.strength) == (None, 0.8)
    table.desk.morph({"t_index": [10, 20], "strength": 0.1}, 2.0, 20.0)
    table.run(20.0, 20.9)
    assert (table.steered.settings.t_index, table.steered.settings.strength) == (None, 0.8)
    table.desk.set("steps", 2, 20.95)
    table.run(21.0, 22.1)
    assert table.steered.settings.t_index is None, "the hand that asks for steps is not overruled by indices"


@pytest.mark.parametrize(("begin", "end"), [("", "neon"), ("neon", ""), ("a" * 1500, "b" * 1500), ("a:0|b:0", "neon")])
def test_prompts_that_no_blend_can_say_change_half_way(begin: str, end: str) -> None:
    table = Table(prompt=begin)
    table.desk.morph({"prompt": end}, 2.0, 10.0)
    table.run(10.0, 10.9)
    assert table.steered.settings.prompt == begin
    table.run(10.9, 11.1)
    assert table.steered.settings.prompt == end
    table.run(11.1, 12.1)
    assert not table.said
    assert not table.desk.busy


@given(st.data(), st.floats(0, 3))
@hypothesis(max_examples=60, deadline=None)
def test_every_moment_of_a_morph_is_right(data: st.DataObject, at: float) -> None:
    """Settings to settings: whatever lies between them, the model takes it."""

    def some() -> Settings:
        names = data.draw(st.sets(st.sampled_from(values.turned())))
        turned = {name: values.scaled(name, data.draw(st.floats(0, 1))) for name in sorted(names)}
        return Settings.checked(**turned, prompt=data.draw(st.text(max_size=30)))

    begin, end = some(), some()
    made = Morph(begin, end.model_dump(), 0.0, 2.0).values(at)
    now = begin.changed(**made)
    assert len(now.prompt) <= PROMPT_LIMIT
    if at >= 2:
        assert now == end


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 3601])
def test_a_morph_of_no_time(seconds: float) -> None:
    table = Table()
    with pytest.raises(ControlError, match="is not between 0 and 3600"):
        table.desk.morph({"strength": 1}, seconds, 1.0)
    with pytest.raises(SettingsError, match="strength is 2"):
        table.desk.morph({"strength": 2}, 1, 1.0)
    assert not table.desk.busy


# ------------------------------------------------------------------------------------------------- followers


def test_a_follower_moves_with_the_beat_and_stands_with_it() -> None:
    table = Table(strength=0.9)
    table.beat.set(60, 0.0, 0.0)
    table.desk.follow(
        "strength", Follow.checked("strength", {"shape": "saw", "beats": 2, "low": 0.2, "high": 0.6}), 0.0
    )
    for at in (0.0, 0.5, 1.0, 1.9, 2.0, 3.0):
        table.desk.tick(at)
        assert table.steered.settings.strength == pytest.approx(0.2 + 0.4 * ((at % 2) / 2))
    table.beat.stop(3.0)
    table.desk.tick(3.1)
    count = len(table.steered.asked)
    table.run(3.2, 4.0)
    assert len(table.steered.asked) == count, "what does not change is not sent"
    table.desk.follow("strength", None, 4.0)
    assert not table.desk.busy


def test_whole_numbers_follow_as_whole_numbers() -> None:
    table = Table()
    table.beat.set(60, 0.0, 0.0)
    table.desk.follow("steps", Follow.checked("steps", {"shape": "saw", "beats": 4, "low": 1, "high": 4}), 0.0)
    table.run(0.0, 4.0)
    assert [change["steps"] for change in table.steered.asked] == [1, 2, 3, 4, 1]


def test_the_hand_wins_over_a_follower_and_a_morph_leaves_it_alone() -> None:
    table = Table(strength=0.5, delta=0.0)
    table.beat.set(60, 0.0, 0.0)
    table.desk.follow("strength", Follow.checked("strength", {"shape": "square", "low": 0.2, "high": 0.6}), 0.0)
    table.desk.morph({"strength": 1.0, "delta": 1.0}, 1.0, 0.0)
    table.run(0.0, 1.1)
    assert (table.steered.settings.strength, table.steered.settings.delta) == (0.6, 1.0)
    table.desk.set("strength", 0.1, 1.2)
    table.run(1.3, 4.0)
    assert table.steered.settings.strength == 0.1
    assert not table.desk.follows


# ------------------------------------------------------------------------------------------------- the hub


def test_the_session_that_is_meant(tmp_path: Path) -> None:
    hub = Hub(tmp_path, clock=lambda: 1.0)
    with pytest.raises(ControlError, match="no session is here"):
        hub.find(None)
    one, two = hub.open(Steered()), hub.open(Steered())
    assert hub.find(None) is two, "the newest, before a hand was anywhere"
    one.by_hand(["strength"], 5.0)
    assert hub.find(None) is one
    live = hub.open(Steered("live"))
    assert hub.find(None) is live
    two.by_hand(["strength"], 9.0)
    assert hub.find(None) is live
    assert hub.find("live") is live
    with pytest.raises(ControlError, match="session 'stage' is not here: use one of live, or none"):
        hub.find("stage")
    hub.close(live)
    assert hub.find(None) is two


def test_an_address_that_is_wrong_is_heard_once_a_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    hub, heard = Hub(tmp_path, clock=lambda: now[0]), []
    hub.complain.listeners.append(lambda where, text: heard.append(where))
    for n in range(500):
        now[0] = n * 0.005
        hub.complain("/livebrush/x", "no")
        hub.complain(f"/livebrush/{n}", "no")
    assert heard.count("/livebrush/x") == 3
    assert len(heard) == 503
    assert len(hub.complain._said) <= 256


def test_while_nothing_moves_the_hub_sleeps_and_a_change_wakes_it(tmp_path: Path) -> None:
    async def job() -> None:
        hub, steered = Hub(tmp_path), Steered()
        desk = hub.open(steered)
        task = asyncio.ensure_future(hub.run())
        await asyncio.sleep(0.05)
        hub.set("strength", 0.1)
        hub.set("strength", 0.2)
        assert steered.asked == [{"strength": 0.1}]
        await asyncio.sleep(0.2)
        assert steered.settings.strength == 0.2
        hub.morph({"delta": 2.0}, 0.2)
        await asyncio.sleep(0.6)
        assert steered.settings.delta == 2.0
        assert not desk.busy
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(job())


# ------------------------------------------------------------------------------------------------- sessions


def test_pages_hear_of_what_moves_and_a_page_that_moves_it_back_wins() -> None:
    async def job() -> None:
        room = Room()
        session, link, _ = await room.enter(strength=0.2)
        hub = room.sessions.hub
        assert link.of("beat")[0]["bpm"] == 120
        hub.morph({"strength": 0.8}, 10.0)
        begin = hub.clock()
        for n in range(1, 5):
            session.desk.tick(begin + n)
        assert session.settings.strength > 0.2
        assert not link.of("settings"), "not of every step"
        session.show_settings()
        assert link.of("settings")[-1]["settings"]["strength"] == session.settings.strength
        link.control.received('{"type":"settings","id":1,"changes":{"strength":0.3}}')
        session.desk.tick(begin + 9)
        assert session.settings.strength == 0.3
        assert not session.desk.busy
        await room.sessions.close(session, "enough")
        assert not list(hub)

    run(job())


def test_a_page_taps_morphs_and_follows_over_its_channel() -> None:
    async def job() -> None:
        room = Room()
        session, link, _ = await room.enter()
        for _ in range(2):
            link.control.received('{"type":"tap"}')
        assert room.sessions.hub.beat.lead == "tap"
        link.control.received('{"type":"morph","to":{"strength":0.9},"seconds":0}')
        assert session.settings.strength == 0.9
        link.control.received('{"type":"follow","setting":"delta","follow":{"shape":"saw","beats":1}}')
        assert session.desk.follows["delta"].high == 2
        link.control.received('{"type":"follow","setting":"delta","follow":null}')
        assert not session.desk.follows
        assert not link.of("error")
        for wrong in ('{"type":"morph","to":"not there"}', '{"type":"morph","to":{"strength":5}}',
                      '{"type":"follow","setting":"prompt","follow":{}}', '{"type":"morph","to":{},"seconds":-1}',
                      '{"type":"follow","setting":"x","follow":{}}', '{"type":"tap","more":1}'):  # fmt: skip
            link.told.clear()
            link.control.received(wrong)
            assert [m["type"] for m in link.told] == ["error"], wrong
        await room.sessions.close(session, "enough")

    run(job())


# ------------------------------------------------------------------------------------------------- over the wire

LORAS = (Lora("styles/ink.safetensors", 0.0),)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("control")
    worker = FakeSupervisor(ModelSpec("fake", "fake", settings=Settings.checked(width=64, height=64), loras=LORAS))
    with served(worker=worker, control=Control(folder=folder)) as running:
        running.call(lambda: running.house.sessions.stand("live", "whip"))
        yield running


@pytest.fixture
def http(server: Served) -> httpx.Client:
    server.http.patch("/api/sessions/live", json={"settings": {"strength": 0.4, "delta": 1.0}})
    return server.http


def settings_of(server: Served, name: str = "live") -> Settings:
    found: Settings = server.call(lambda: server.house.sessions.find(name).settings)
    return found


def test_presets_over_http(http: httpx.Client, server: Served) -> None:
    made = http.put("/api/presets/Blue hour", json={"settings": {"prompt": "blueprint", "strength": 0.3}})
    assert (made.status_code, made.json()["own"], made.json()["number"]) == (200, True, 0)
    assert http.get("/api/presets/Blue hour").json() == made.json()
    everything = http.get("/api/presets").json()
    assert everything["presets"][0] == made.json()
    again = http.post("/api/presets", json=everything)
    assert again.status_code == 200, "what one machine tells, another takes"
    assert all(preset["own"] for preset in again.json()["presets"])
    for preset in everything["presets"]:
        assert http.delete(f"/api/presets/{preset['name']}").status_code == 204
    assert http.delete("/api/presets/Blue hour").status_code == 404
    assert http.get("/api/presets/Blue hour").status_code == 404
    wrong = http.put("/api/presets/x", json={"settings": {"strength": 2}})
    assert (wrong.status_code, wrong.json()["error"]) == (422, "strength is 2: input should be less than or equal to 1")
    assert http.put("/api/presets/%2e%2e", json={"settings": {}}).status_code in (404, 405, 422)
    assert http.put("/api/presets/..%5cx", json={"settings": {}}).status_code == 422
    before = http.get("/api/presets").json()
    half = {"presets": [{"name": "good", "settings": {}}, {"name": "a/b", "settings": {}}]}
    assert http.post("/api/presets", json=half).status_code == 422
    assert http.get("/api/presets").json() == before, "all of them, or none"


def test_a_session_morphs_over_http(http: httpx.Client, server: Served) -> None:
    http.put("/api/presets/calm", json={"settings": {"strength": 0.1, "prompt": "watercolor painting"}})
    assert http.post("/api/sessions/live/morph", json={"to": "calm", "seconds": 0.3}).status_code == 204
    comes_to(lambda: settings_of(server).strength == 0.1)
    assert settings_of(server).prompt == "watercolor painting"
    assert http.post("/api/sessions/live/morph", json={"to": {"delta": 2.0}}).status_code == 204
    comes_to(lambda: settings_of(server).delta == 2.0)
    for body, status in (({"to": "nowhere"}, 404), ({"to": {"delta": 9}}, 422), ({"to": {"x": 1}}, 422),
                         ({"to": 5}, 422), ({"to": {}, "seconds": -1}, 422), ({"seconds": 1}, 422)):  # fmt: skip
        answer = http.post("/api/sessions/live/morph", json=body)
        assert (answer.status_code, "error" in answer.json()) == (status, True), body
    assert http.post("/api/sessions/nobody/morph", json={"to": {}}).status_code == 404


def test_the_beat_over_http(http: httpx.Client) -> None:
    assert http.put("/api/beat", json={"bpm": 128, "position": 8}).json()["bpm"] == 128
    assert 8 <= http.get("/api/beat").json()["position"] < 20
    assert http.put("/api/beat", json={"bpm": 5}).status_code == 422
    assert http.post("/api/beat/tap", json={}).json()["lead"] == "tap"
    assert http.post("/api/beat/tap", json={"x": 1}).status_code == 422
    assert http.post("/api/beat/tap").status_code == 200, "a button of a script"


def test_followers_over_http(http: httpx.Client, server: Served) -> None:
    url = "/api/sessions/live/follows"
    made = http.put(f"{url}/strength", json={"shape": "square", "beats": 0.25, "low": 0.2, "high": 0.6})
    assert made.json() == {"shape": "square", "beats": 0.25, "low": 0.2, "high": 0.6, "phase": 0.0}
    seen: set[float] = set()
    comes_to(lambda: seen.add(settings_of(server).strength) or {0.2, 0.6} <= seen)  # type: ignore[func-returns-value]
    assert http.get(url).json() == {"follows": {"strength": made.json()}}
    assert http.delete(f"{url}/strength").status_code == 204
    assert http.delete(f"{url}/strength").status_code == 404
    assert http.get(url).json() == {"follows": {}}
    for setting, body in (("prompt", {}), ("x", {}), ("strength", {"high": 2}), ("strength", {"beats": 0})):
        assert http.put(f"{url}/{setting}", json=body).status_code == 422
    http.put(f"{url}/delta", json={})
    http.patch("/api/sessions/live", json={"settings": {"delta": 0.5}})
    assert http.get(url).json() == {"follows": {}}, "the hand wins"


def test_midi_over_http_where_no_port_is(http: httpx.Client) -> None:
    facts = http.get("/api/midi").json()
    assert (facts["ports"], facts["bindings"], facts["trouble"][:16]) == ([], [], "no MIDI is heard")
    assert http.post("/api/midi/learn", json={"setting": "strength"}).json()["learning"] == "strength"
    assert http.post("/api/midi/learn", json={"setting": None}).json()["learning"] is None
    assert http.post("/api/midi/learn", json={"setting": "prompt"}).status_code == 422
    one = {"setting": "strength", "kind": "cc", "channel": 0, "number": 7}
    assert http.put("/api/midi", json={"bindings": [one]}).json()["bindings"][0]["setting"] == "strength"
    for wrong in ({"setting": "x"}, {"setting": "strength", "low": 7}, {"setting": "strength", "number": 128},
                  {"setting": "strength", "kind": "cc14", "number": 40}):  # fmt: skip
        answer = http.put("/api/midi", json={"bindings": [wrong]})
        assert (answer.status_code, bool(answer.json()["error"])) == (422, True)
    assert http.put("/api/midi", json={"bindings": []}).json()["bindings"] == []


# ------------------------------------------------------------------------------------------------- the WebSocket


class Program:
    """A program on /api/control."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def say(self, **message: Any) -> None:
        self.connection.send(json.dumps(message))

    def hear(self, kind: str, seconds: float = PATIENCE_S) -> dict[str, Any]:
        """The next message of a kind."""
        end = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = json.loads(self.connection.recv(timeout=max(0.01, end - time.monotonic())))
            if found["type"] == kind:
                return found


def program(server: Served, query: str = "?session=live") -> Any:
    return connect(f"ws://127.0.0.1:{server.port}/api/control{query}", origin=None)


def test_a_program_steers_without_a_picture(http: httpx.Client, server: Served) -> None:
    with program(server) as connection, program(server, "") as other:
        one, two = Program(connection), Program(other)
        assert one.hear("hello")["settings"]["width"] == 64
        two.hear("hello")
        one.say(type="settings", id=7, changes={"strength": 0.77})
        told = one.hear("settings")
        assert (told["id"], told["settings"]["strength"], told["error"]) == (7, 0.77, None)
        assert two.hear("settings")["settings"]["strength"] == 0.77, "without a name it is `live` that is meant"
        one.say(type="settings", id=8, changes={"strength": 7})
        assert one.hear("settings")["error"].startswith("strength is 7")
        one.say(type="tap")
        one.say(type="tap")
        assert two.hear("beat")["lead"] == "tap"
        one.say(type="follow", setting="delta", follow={"shape": "sine", "beats": 2})
        assert two.hear("follows")["follows"]["delta"]["beats"] == 2
        one.say(type="follow", setting="delta", follow=None)
        assert two.hear("follows")["follows"] == {}
        one.say(type="morph", to={"delta": 0.0}, seconds=0.3)
        comes_to(lambda: settings_of(server).delta == 0.0)
        assert two.hear("settings")["id"] is None, "what moves by itself is told ten times a second"
        assert one.hear("stats")["fps_in"] == 0


def test_a_program_is_told_what_is_wrong_and_bounded(server: Served) -> None:
    with program(server) as connection:
        one = Program(connection)
        one.hear("hello")
        for wrong in ("", "x", "[]", '{"type":"x"}', '{"type":"morph"}', "y" * 20_000):
            connection.send(wrong)
            assert one.hear("error")["error"]
        for n in range(200):
            one.say(type="ping", t=n)
        assert "more than 60 messages a second" in one.hear("error")["error"]
    comes_to(lambda: len(server.call(lambda: server.house.sessions.find("live")._channels)) == 0)


def test_a_program_for_a_session_that_is_not_here(server: Served) -> None:
    with program(server, "?session=nobody") as connection:
        refused = json.loads(connection.recv(timeout=PATIENCE_S))
        assert (refused["type"], refused["status"]) == ("refused", 404)
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=PATIENCE_S)


def test_a_program_hears_the_end_of_its_session(server: Served) -> None:
    server.call(lambda: server.house.sessions.stand("short", "whip"))
    with program(server, "?session=short") as connection:
        one = Program(connection)
        one.hear("hello")
        server.http.delete("/api/sessions/short")
        assert one.hear("bye")["reason"] == "the session was ended"
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=PATIENCE_S)


def test_a_change_goes_to_the_worker_within_the_same_message(http: httpx.Client, server: Served) -> None:
    """Row L6: a hand waits for no tick."""

    def moved() -> float:
        hub, stream = server.house.sessions.hub, server.worker.streams[0]
        count, begin = len(stream.asked), time.perf_counter()
        hub.set("strength", 0.123)
        assert len(stream.asked) == count + 1, "asked of the worker before the call returned"
        return time.perf_counter() - begin

    time.sleep(2 * TICK_S)
    assert server.call(moved) < 1


def test_lora_knobs_go_to_the_worker_the_newest_of_each(http: httpx.Client, server: Served) -> None:
    hub = server.house.sessions.hub

    def turn() -> None:
        for n in range(100):
            assert hub.ask("/livebrush/lora/ink", lambda n=n: hub.turn_lora("/livebrush/lora/ink", "ink", n / 100))  # type: ignore[misc]
        assert not hub.ask("/l", lambda: hub.turn_lora("/l", "oil", 0.5))
        assert not hub.ask("/m", lambda: hub.turn_lora("/m", "ink", float("nan")))

    server.call(turn)
    comes_to(lambda: http.get("/api/loras").json()["loras"] == [{"name": "ink", "strength": 0.99}])
    assert len(server.worker.remixes) <= 3


def test_the_example_of_the_docs_runs(http: httpx.Client, server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "docs" / "control.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"), {})
    assert capsys.readouterr().out == "pulse\n"
    comes_to(
        lambda: settings_of(server).prompt.startswith("neon lights") or "neon lights:" in settings_of(server).prompt
    )
    http.delete("/api/sessions/live/follows/delta")


def test_roles_hold_for_live_control_as_well(tmp_path: Path) -> None:
    tokens = ("view:lookslookslooks00", "control:turnsturnsturns00")
    with served(access=Access(tokens=tokens), control=Control(folder=tmp_path)) as guarded:
        guarded.call(lambda: guarded.house.sessions.stand("live", "whip"))
        looks, turns = ({"Authorization": f"Bearer {token.partition(':')[2]}"} for token in tokens)
        asked = [("PUT", "/api/presets/x", {"settings": {}}), ("POST", "/api/presets", {"presets": []}),
                 ("POST", "/api/sessions/live/morph", {"to": {}}), ("PUT", "/api/beat", {"bpm": 90}),
                 ("POST", "/api/beat/tap", {}), ("PUT", "/api/sessions/live/follows/delta", {}),
                 ("PUT", "/api/midi", {"bindings": []}), ("POST", "/api/midi/learn", {"setting": None})]  # fmt: skip
        for method, path, body in asked:
            answers = [guarded.http.request(method, path, json=body, headers=who) for who in ({}, looks, turns)]
            assert [answer.status_code // 100 for answer in answers] == [4, 4, 2], path
            assert [answer.status_code for answer in answers[:2]] == [401, 403], path
        for path in ("/api/presets", "/api/beat", "/api/sessions/live/follows", "/api/midi", "/api/osc"):
            assert guarded.http.get(path).status_code == 401
            assert guarded.http.get(path, headers=looks).status_code == 200
        url = f"ws://127.0.0.1:{guarded.port}/api/control?session=live"
        with pytest.raises(InvalidStatus) as refused:
            connect(url, origin=None).close()
        assert refused.value.response.status_code == 401
        with connect(url, origin=None, additional_headers=looks) as connection:
            one = Program(connection)
            one.hear("hello")
            one.say(type="tap")
            assert "only looks on" in one.hear("error")["error"]
            one.say(type="settings", changes={"strength": 0.9})
            assert "only looks on" in one.hear("error")["error"]
        with connect(url, origin=None, additional_headers=turns) as connection:
            one = Program(connection)
            one.hear("hello")
            one.say(type="settings", id=9, changes={"strength": 0.9})
            while (told := one.hear("settings"))["id"] != 9:  # delta, which follows the beat, is told of as well
                pass
            assert (told["settings"]["strength"], told["error"]) == (0.9, None)
