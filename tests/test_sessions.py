"""Sessions, without a server: what pages see and are told, whatever worker, page and queue do."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from waiting import run, until
from webrig import SDP, SPEC, FakeLink, Room, flat

from stream.config import ModelSpec
from stream.errors import SettingsError, SourceError
from stream.frame import Frame
from stream.settings import Settings
from stream.sources import Source
from web.config import VIEWERS
from web.control import Channel
from web.errors import RefusalError
from web.fields import MESSAGE_LIMIT, MESSAGES_A_SECOND, Percentiles
from web.inputs import Pumps
from web.pump import Pump
from web.session import near
from web.statistics import Meter
from web.waiting import LAPSE_S, LENGTH, Line
from web.wishes import Wishes, changed

PLAIN = Settings.checked(width=64, height=64)


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def frame(grey: int, pts: int = 0) -> Frame:
    return Frame(flat(grey), pts, Fraction(1, 90000), time.monotonic())


def shown(link: FakeLink) -> int:
    """The grey of the picture that the page sees."""
    return int(link.pictures.newest.frame.image[0, 0, 0])


def says(link: FakeLink, **message: Any) -> None:
    """The page sends a message."""
    link.control.received(json.dumps(message))


# ------------------------------------------------------------------------------------------------- the picture


def test_the_input_is_shown_until_painted_pictures_come() -> None:
    async def job() -> None:
        room = Room()
        room.worker.become("starting")
        session, link, stream = await room.enter()
        link.receive(frame(10))
        assert (shown(link), session.state) == (10, "starting")
        room.worker.become("ready")
        link.receive(frame(20))
        assert (shown(link), session.state) == (20, "painting")
        stream.paint()
        assert shown(link) == 235
        link.receive(frame(30))
        assert shown(link) == 235, "the input must not be mixed among the painted pictures"
        assert [f.image[0, 0, 0] for f in stream.frames] == [10, 20, 30]
        await room.sessions.close(session, "done")

    run(job())


@pytest.mark.parametrize("state", ["restarting", "failed"])
def test_a_dead_worker_leaves_everybody_with_their_own_camera_and_a_notice_at_once(state: str) -> None:
    async def job() -> None:
        room = Room()
        room.worker.start()
        session, link, stream = await room.enter()
        link.receive(frame(10))
        stream.paint()
        link.receive(frame(30))
        began = time.perf_counter()
        room.worker.become(state, "the engine died: it starts again")
        assert shown(link) == 30, "its own newest picture, without waiting for the next"
        assert link.of("state")[-1] == {"type": "state", "state": state, "notice": "the engine died: it starts again"}
        assert time.perf_counter() - began < 1
        link.receive(frame(40))
        assert shown(link) == 40
        room.worker.become("ready")
        stream.paint()
        assert (shown(link), session.state, link.of("state")[-1]["state"]) == (215, "painting", "painting")
        assert not link.closed
        await room.sessions.close_all("done")

    run(job())


def test_every_picture_carries_the_pages_clock() -> None:
    async def job() -> None:
        room = Room()
        room.worker.start()
        _, link, stream = await room.enter()
        link.receive(frame(1, pts=9000))
        assert link.pictures.newest.captured_ms == 100
        link.receive(frame(1, pts=18000))
        stream.paint()
        assert link.pictures.newest.captured_ms == 200
        await room.sessions.close_all("done")

    run(job())


def test_nothing_of_one_session_reaches_another() -> None:
    async def job() -> None:
        room = Room()
        room.worker.start()
        (_, one, first), (_, two, second) = await room.enter(prompt="one"), await room.enter(prompt="two")
        one.receive(frame(10))
        two.receive(frame(20))
        first.paint()
        assert (shown(one), shown(two)) == (245, 20)
        second.paint()
        assert (shown(one), shown(two)) == (245, 235)
        says(one, type="settings", id=1, changes={"prompt": "three"})
        assert (first.settings.prompt, second.settings.prompt) == ("three", "two")
        assert not two.of("settings")
        await room.sessions.close_all("done")

    run(job())


# ------------------------------------------------------------------------------------------------- settings


def test_the_worker_answers_for_every_change() -> None:
    async def job() -> None:
        room = Room(answers=False)
        room.worker.start()
        session, link, stream = await room.enter()
        stream.listener.applied(stream.settings, None)
        says(link, type="settings", id=1, changes={"prompt": "a"})
        says(link, type="settings", id=2, changes={"prompt": "b", "seed": 1})
        says(link, type="settings", id="three", changes={"seed": 2})
        assert [s.prompt for s in stream.asked] == ["a"], "one change at a time is under way"
        assert not link.of("settings")
        stream.listener.applied(stream.asked[-1], None)
        assert [(s.prompt, s.seed) for s in stream.asked] == [("a", 0), ("b", 2)], "of what waited, the newest values"
        stream.listener.applied(stream.asked[-2], "the text encoder is out of words")
        answers = [(m["id"], m["settings"]["prompt"], m["error"]) for m in link.of("settings")]
        why = "the text encoder is out of words"
        assert answers == [(1, "a", None), (2, "a", why), ("three", "a", why)]
        assert session.settings.prompt == "a"
        await room.sessions.close_all("done")

    run(job())


def test_a_wrong_setting_is_answered_at_once_and_changes_nothing() -> None:
    async def job() -> None:
        room = Room()
        room.worker.start()
        _, link, stream = await room.enter()
        for changes, word in (({"strength": 3}, "strength"), ({"self": 1}, "self"), ({"width": 65}, "multiple of 8")):
            says(link, type="settings", id=7, changes=changes)
            answer = link.of("settings")[-1]
            assert (answer["id"], answer["settings"]["strength"]) == (7, 0.4)
            assert word in answer["error"]
        assert stream.asked == []
        await room.sessions.close_all("done")

    run(job())


def test_settings_asked_for_while_the_worker_is_away_are_kept_for_it() -> None:
    async def job() -> None:
        room = Room(answers=False)
        room.worker.start()
        session, link, stream = await room.enter()
        stream.listener.applied(stream.settings, None)
        says(link, type="settings", id=1, changes={"prompt": "under way"})
        says(link, type="settings", id=2, changes={"seed": 5})
        room.worker.become("restarting", "wait")
        assert [m["id"] for m in link.of("settings")] == [1, 2], "nobody waits for a worker that is gone"
        says(link, type="settings", id=3, changes={"steps": 2})
        assert link.of("settings")[-1]["error"] is None
        assert (stream.settings.prompt, stream.settings.seed, stream.settings.steps) == ("under way", 5, 2)
        assert session.settings == stream.settings
        room.worker.become("ready")
        assert session.state == "starting"
        stream.listener.applied(stream.settings, None)
        assert (session.state, len(link.of("settings"))) == ("painting", 3)
        await room.sessions.close_all("done")

    run(job())


def test_what_the_worker_changes_by_itself_is_told() -> None:
    async def job() -> None:
        room = Room()
        room.worker.start()
        session, link, stream = await room.enter()
        smaller = stream.settings.changed(width=128)
        stream.listener.applied(smaller, None)
        stream.listener.notice("memory ran out: 128x64 now")
        assert link.of("settings")[-1] | {"settings": 0} == {"type": "settings", "id": None, "settings": 0,
                                                             "error": None}  # fmt: skip
        assert link.of("settings")[-1]["settings"]["width"] == 128
        assert link.of("state")[-1]["notice"] == "memory ran out: 128x64 now"
        assert session.shape() == (128, 64, "crop")
        await room.sessions.close_all("done")

    run(job())


def test_a_size_asked_for_before_the_model_was_known_becomes_the_nearest() -> None:
    async def job() -> None:
        room = Room(answers=False, spec=ModelSpec("x", "x", settings=Settings.checked(width=640, height=360)))
        room.worker.become("starting")
        session, link, stream = await room.enter()
        room.worker.know(multiple=32)
        room.worker.become("ready")
        stream.listener.applied(stream.settings, "height 360 is not a multiple of 32: use 352 or 384")
        assert session.state == "starting"
        assert link.of("state")[-1]["notice"].startswith("height 360")
        assert (stream.asked[-1].width, stream.asked[-1].height) == (640, 352)
        stream.listener.applied(stream.asked[-1], None)
        assert (session.state, session.settings.height, session.remark) == ("painting", 352, "")
        assert link.of("settings")[-1]["settings"]["height"] == 352
        assert room.sessions.defaults.height == 352
        await room.sessions.close_all("done")

    run(job())


def test_settings_that_the_worker_cannot_follow_are_a_failure_with_a_notice() -> None:
    async def job() -> None:
        room = Room(answers=False)
        room.worker.start()
        session, link, stream = await room.enter()
        link.receive(frame(10))
        stream.listener.applied(stream.settings, "memory ran out: close another session")
        assert link.of("state")[-1] == {"type": "state", "state": "failed",
                                        "notice": "memory ran out: close another session"}  # fmt: skip
        link.receive(frame(20))
        assert shown(link) == 20
        says(link, type="settings", id=1, changes={"width": 128})
        stream.listener.applied(stream.asked[-1], None)
        assert (session.state, session.remark) == ("painting", "")
        await room.sessions.close_all("done")

    run(job())


def test_near_keeps_within_the_limits() -> None:
    assert near(PLAIN, 64) == PLAIN
    assert near(PLAIN.changed(width=2048, height=72), 48).model_dump(include={"width", "height"}) == {
        "width": 2016, "height": 96}  # fmt: skip


def test_strength_and_steps_replace_a_presets_indices() -> None:
    preset = PLAIN.changed(t_index=(32, 45))
    assert changed(preset, {"prompt": "x"}).t_index == (32, 45)
    assert changed(preset, {"strength": 0.5}).t_index is None
    assert changed(preset, {"steps": 2, "t_index": [10, 20]}).t_index == (10, 20)


def test_wishes_leave_an_answer_to_an_older_question_alone() -> None:
    asked: list[Settings] = []
    told: list[Any] = []
    wishes = Wishes(PLAIN, asked.append)
    assert wishes.answered(PLAIN, None) is False
    wishes.ask({"seed": 1}, lambda s, e: told.append((s.seed, e)))
    assert wishes.answered(PLAIN, None) is False
    assert told == []
    assert wishes.answered(asked[0], None) is False
    assert told == [(1, None)]
    wishes.ask({"seed": 1}, lambda s, e: told.append("as it is"))
    assert (told[-1], len(asked)) == ("as it is", 1)
    assert wishes.answered(PLAIN, None) is True, "nobody asked for that"
    with pytest.raises(SettingsError):
        wishes.ask({"seed": -1}, lambda s, e: None)


# ------------------------------------------------------------------------------------------------- the channel


class Deaf:
    """A session that only counts."""

    settings = PLAIN

    def __init__(self) -> None:
        self.hidden: list[bool] = []
        self.asked: list[Any] = []

    def joined(self, channel: Channel) -> None: ...
    def parted(self, channel: Channel) -> None: ...

    def change(self, changes: Any, tell: Any) -> None:
        self.asked.append(changes)

    def hide(self, hidden: bool) -> None:
        self.hidden.append(hidden)


def channel(**options: Any) -> tuple[Deaf, Channel, list[dict[str, Any]]]:
    session, told = Deaf(), []
    made = Channel(session, "webrtc", **options)
    made.connected(told.append)
    return session, made, told


MALFORMED = ["", "x", "[]", "null", "1", '"x"', "{}", '{"type":"x"}', '{"type":null}', "[" * 9000, '{"a":' * 2000,
             '{"type":"ping"}', '{"type":"ping","t":"1"}', '{"type":"ping","t":NaN}', '{"type":"ping","t":1e999}',
             '{"type":"ping","t":1,"more":1}', '{"type":"hidden","hidden":"yes"}', '{"type":"settings"}',
             '{"type":"settings","changes":[]}', '{"type":"latency","p50":-1,"p95":1,"count":1}',
             '{"type":"settings","changes":{"prompt":"\\ud800"}}', '{"type":"ping","t":' + "9" * 5000 + "}",
             "\x00", "\ud800", '{"type":"hello"}', "y" * (MESSAGE_LIMIT + 1), '{"type":"ping","t":1}{}']  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED, ids=lambda t: repr(t[:24]))
def test_a_message_that_is_none_is_answered_with_what_is_wrong(text: str) -> None:
    session, made, told = channel()
    made.received(text)
    (answer,) = told
    assert answer["type"] == "error"
    assert 8 < len(answer["error"]) < 500
    json.dumps(answer).encode()
    assert not session.asked
    made.received('{"type":"ping","t":1}')
    assert told[-1]["type"] == "pong"


def test_sixty_messages_a_second_are_followed_and_no_more() -> None:
    clock = Clock()
    _, made, told = channel(clock=clock)
    for _ in range(200):
        made.received('{"type":"ping","t":1}')
    assert [m["type"] for m in told].count("pong") == MESSAGES_A_SECOND
    assert [m["type"] for m in told].count("error") == 1
    clock.now += 0.5
    for _ in range(200):
        made.received('{"type":"ping","t":1}')
    assert [m["type"] for m in told].count("pong") == 1.5 * MESSAGES_A_SECOND


def test_a_viewer_only_looks_on() -> None:
    session, made, told = channel(may_change=False)
    made.received('{"type":"settings","id":1,"changes":{"seed":1}}')
    made.received('{"type":"hidden","hidden":true}')
    assert (session.asked, session.hidden) == ([], [])
    assert "only looks on" in told[0]["error"]
    made.received('{"type":"ping","t":3.5}')
    assert told[-1]["t"] == 3.5


def test_a_channel_that_is_gone_swallows_what_it_is_told() -> None:
    _, made, told = channel()
    made.closed()
    made.received('{"type":"ping","t":1}')
    assert told == []


def test_a_frame_that_could_not_be_painted_is_told_until_it_goes_well_for_a_while() -> None:
    async def job() -> None:
        clock = Clock()
        room = Room(clock=clock)
        room.worker.start()
        session, link, stream = await room.enter()
        for wait in (0.0, 2.0):
            clock.now += wait
            stream.listener.failed("RuntimeError: no")
            session.tick()
            assert session.remark == "a frame could not be painted: RuntimeError: no"
        clock.now += 2.9
        session.tick()
        assert session.remark
        clock.now += 0.2
        session.tick()
        assert (session.remark, link.of("state")[-1]["notice"]) == ("", "")
        stream.listener.notice("memory ran out: 128x64 now")
        clock.now += 60
        session.tick()
        assert session.remark == "memory ran out: 128x64 now"
        await room.sessions.close_all("done")

    run(job())


def test_a_page_is_told_where_it_is_and_how_it_goes() -> None:
    async def job() -> None:
        clock = Clock()
        room = Room(clock=clock)
        room.worker.start()
        room.worker.know(stages={"tick": {"count": 3, "p50": 4.0, "p95": 5.0}}, multiple=16)
        session, link, stream = await room.enter(prompt="ink")
        hello = link.told[0]
        assert (hello["type"], hello["session"], hello["settings"]["prompt"]) == ("hello", session.id, "ink")
        assert hello["model"] == {"name": "fake", "about": "Paints by hand.", "engine": "fake on cpu", "multiple": 16}
        for _ in range(30):
            link.receive(Frame(flat(1), captured_at=clock.now))
            clock.now += 0.02
            stream.paint()
            clock.now += 1 / 30 - 0.02
        session.tick()
        stats = link.of("stats")[-1]
        assert (stats["fps_in"], stats["fps_out"]) == (30.0, 30.0)
        assert stats["server_ms"] == {"p50": 20.0, "p95": 20.0}
        assert (stats["engine_ms"]["p50"], stats["stages"]) == (5.0, {"tick": {"p50": 4.0, "p95": 5.0}})
        assert (stats["sessions"], stats["transport"], stats["delay_frames"]) == (1, "webrtc", 1)
        says(link, type="latency", p50=61.5, p95=80, count=20)
        summary = room.sessions.summary()
        assert (summary.sessions, summary.fps, summary.latency_ms) == (1, 30.0, 61.5)
        await room.sessions.close_all("done")

    run(job())


def test_capture_times_follow_their_pictures_every_100_ms() -> None:
    async def job() -> None:
        room = Room()
        room.worker.start()
        _session, link, _ = await room.enter()
        ticking = asyncio.ensure_future(room.sessions.run())
        link.times = [(3000, 1234.5)]
        for _ in range(100):
            await asyncio.sleep(0.01)
            if link.of("frames"):
                break
        assert link.of("frames") == [{"type": "frames", "at": [[3000, 1234.5]]}] or link.of("frames")[0]["at"] == [
            (3000, 1234.5)]  # fmt: skip
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        await room.sessions.close_all("done")

    run(job())


def test_a_meter_that_measured_nothing_says_nothing() -> None:
    assert Meter(Clock()).engine_ms == Percentiles()


# ------------------------------------------------------------------------------------------------- coming and going


def test_a_full_house_queues_and_lets_the_first_in() -> None:
    async def job() -> None:
        room = Room(limit=1)
        room.worker.start()
        session, _, _ = await room.enter()
        tickets = []
        for place in (1, 2):
            with pytest.raises(RefusalError) as refusal:
                room.sessions.admit({}, "page", None, lambda: None)
            assert (refusal.value.status, refusal.value.more["queue"]["place"]) == (503, place)
            tickets.append(refusal.value.more["queue"]["ticket"])
        await room.sessions.close(session, "bye")
        for ticket in (None, "made up", tickets[1]):
            with pytest.raises(RefusalError, match="1 places are taken: yours is number"):
                room.sessions.admit({}, "page", ticket, lambda: None)
        room.sessions.admit({}, "page", tickets[0], lambda: None)
        assert room.sessions.summary().waiting >= 1
        await room.sessions.close_all("done")

    run(job())


def test_tickets_lapse_and_the_queue_has_an_end() -> None:
    clock = Clock()
    line = Line(clock)
    first = line.wait(None)
    assert first is not None
    places = [line.wait(None) for _ in range(LENGTH - 1)]
    assert places[-1] is not None
    assert places[-1].place == LENGTH
    assert line.wait(None) is None
    clock.now += LAPSE_S - 1
    assert line.wait(first.ticket) == first
    clock.now += 2
    assert len(line) == 1
    assert line.passes(first.ticket, 1)
    assert not line.passes(None, 1)
    line.leave(first.ticket)
    assert line.passes(None, 1)
    assert not line.passes(None, 0)


def test_a_session_ends_once_and_everybody_hears() -> None:
    async def job() -> None:
        room = Room()
        room.worker.start()
        session, link, stream = await room.enter()
        await session.view(SDP)
        viewer = room.answers.links[-1]
        viewer.connect()
        assert viewer.receive is None
        await room.sessions.close(session, "the page left")
        await room.sessions.close(session, "again")
        assert [m["reason"] for m in link.of("bye")] == ["the page left"]
        assert viewer.of("bye")
        assert (stream.closed, link.closed, viewer.closed, session.pictures.closed) == (True, True, True, True)
        assert (len(room.sessions), session.state) == (0, "stopping")
        link.receive(frame(1))
        with pytest.raises(RefusalError, match="is not here"):
            room.sessions.find(session.id)

    run(job())


def test_the_page_that_goes_takes_its_session_with_it_and_a_viewer_only_itself() -> None:
    async def job() -> None:
        room = Room()
        room.worker.start()
        session, link, _ = await room.enter()
        await session.view(SDP)
        viewer = room.answers.links[-1]
        await viewer.close()
        assert (len(session.viewers), len(room.sessions)) == (0, 1)
        await link.close()
        await room.sessions.close_all("wait for it")
        assert len(room.sessions) == 0

    run(job())


def test_a_session_that_ends_while_its_offer_is_answered_leaves_nothing() -> None:
    async def job() -> None:
        room = Room()
        room.worker.start()
        session = room.sessions.admit({}, "page", None, lambda: None)
        room.answers.before = lambda: room.sessions.close(session, "the server stops")
        with pytest.raises(RefusalError, match="before it began"):
            await session.answer(SDP)
        await asyncio.sleep(0)
        assert room.answers.links[0].closed
        assert room.worker.streams == []
        await room.sessions.close_all("done")
        with pytest.raises(RefusalError, match="the server stops"):
            room.sessions.admit({}, "page", None, lambda: None)

    run(job())


def test_viewers_have_a_limit() -> None:
    async def job() -> None:
        room = Room()
        room.worker.start()
        session, _, _ = await room.enter()
        for _ in range(VIEWERS):
            await session.view(SDP)
        with pytest.raises(RefusalError, match="look on already"):
            await session.view(SDP)
        await room.sessions.close_all("done")

    run(job())


def test_a_page_that_is_hidden_says_so_to_its_link() -> None:
    async def job() -> None:
        room = Room()
        room.worker.start()
        _, link, _ = await room.enter()
        says(link, type="hidden", hidden=True)
        assert link.hidden
        await room.sessions.close_all("done")

    run(job())


def test_a_hundred_sessions_come_and_go_and_leave_nothing() -> None:
    async def job() -> None:
        room = Room()
        room.worker.start()
        for _ in range(100):
            session, link, stream = await room.enter()
            link.receive(frame(1))
            stream.paint()
            await room.sessions.close(session, "next")
        await room.sessions.close_all("done")
        assert (room.worker.streams, room.worker._watching) == ([], [])

    run(job())


# ------------------------------------------------------------------------------------------------- the pump


class Scripted(Source):
    """Pictures with these greys, then its end; `broken` instead of an end."""

    name, size, rate = "scripted", (64, 64), Fraction(200)

    def __init__(self, greys: list[int], broken: bool = False) -> None:
        self.greys, self.broken, self.count, self.closed = greys, broken, len(greys), False

    def __iter__(self) -> Iterator[Frame]:
        yield from (Frame(flat(grey, (32, 16))) for grey in self.greys)
        if self.broken:
            raise SourceError("the cable came off: plug it in")

    def close(self) -> None:
        self.closed = True


def opening(*sources: Source | Exception) -> Any:
    """What opens these sources, one after the other, or cannot."""
    left = iter(sources)

    def connect(_text: str) -> Source:
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    return connect


async def ended(pump: Pump) -> None:
    pump.close()
    await asyncio.to_thread(pump.join, 5)


def test_a_source_on_the_server_goes_round_and_fits_every_session() -> None:
    async def job() -> None:
        first, again = Scripted([1, 2, 3]), Scripted([4, 5] * 5000)
        pump = Pump("scripted", opening(first, again))
        got: list[Frame] = []
        pump.start()
        end = pump.subscribe(lambda: (64, 48, "stretch"), got.append, lambda _text: None)
        await until(lambda: any(f.image[0, 0, 0] >= 4 for f in got))
        assert {f.size for f in got} == {(64, 48)}
        assert [f.pts for f in got] == sorted(f.pts for f in got)
        assert first.closed
        end()
        await ended(pump)
        assert again.closed
        assert not [t for t in threading.enumerate() if t.name == "source"]

    run(job())


def test_nobody_there_nothing_read() -> None:
    async def job() -> None:
        read: list[int] = []

        class Watched(Scripted):
            def __iter__(self) -> Iterator[Frame]:
                for grey in self.greys:
                    read.append(grey)
                    yield Frame(flat(grey))

        pump = Pump("watched", opening(Watched(list(range(200)))))
        pump.start()
        await asyncio.sleep(0.05)
        assert len(read) <= 2
        end = pump.subscribe(lambda: (64, 64, "crop"), lambda _frame: None, lambda _text: None)
        await until(lambda: len(read) > 5)
        end()
        await ended(pump)

    run(job())


def test_a_slow_session_gets_the_newest_picture_only() -> None:
    async def job() -> None:
        pump, got = Pump("scripted", opening(Scripted(list(range(100))))), []
        pump.start()
        pump.subscribe(lambda: (64, 64, "crop"), lambda f: got.append(f.image[0, 0, 0]), lambda _text: None)
        await until(lambda: got)
        time.sleep(0.2)
        before = len(got)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(got) - before <= 2
        await ended(pump)

    run(job())


def test_one_picture_is_shown_for_as_long_as_it_is_wanted() -> None:
    async def job() -> None:
        pump, got = Pump("one", opening(Scripted([9]))), []
        pump.start()
        pump.subscribe(lambda: (64, 64, "crop"), got.append, lambda _text: None)
        await until(lambda: len(got) > 5)
        await ended(pump)

    run(job())


def test_a_source_that_breaks_is_told_and_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.pump.RETRY_S", 0.02)

    async def job() -> None:
        told: list[str] = []
        breaks = Scripted([1], broken=True)
        breaks.count = None
        pump = Pump("scripted", opening(breaks, SourceError("still nothing"), Scripted([7] * 50)))
        pump.start()
        got: list[Frame] = []
        pump.subscribe(lambda: (64, 64, "crop"), got.append, lambda facts: told.append(facts.remark))
        await until(lambda: any(f.image[0, 0, 0] == 7 for f in got))
        assert told == ["", "the cable came off: plug it in", "still nothing", ""]
        await ended(pump)

    run(job())


def test_a_session_takes_the_servers_source() -> None:
    async def job() -> None:
        pumps = Pumps("scripted", opening(Scripted([50] * 1000)))
        room = Room(pumps=pumps)
        room.worker.start()
        pumps.start()
        session, link, stream = await room.enter(source="server")
        assert link.receive is None
        await until(lambda: stream.frames)
        assert np.array_equal(stream.frames[0].image, flat(50))
        assert link.pictures.newest.captured_ms is None
        session.notice("the camera is gone")
        assert link.of("state")[-1]["notice"] == "the camera is gone"
        await room.sessions.close_all("done")
        assert [pump.takers for pump in pumps._by_text.values()] == [()]
        await pumps.close()

    run(job())


def test_without_a_source_on_the_server_there_is_none_to_take() -> None:
    async def job() -> None:
        with pytest.raises(RefusalError, match="--source"):
            Room().sessions.admit({}, "server", None, lambda: None)

    run(job())


assert SPEC.settings == PLAIN
