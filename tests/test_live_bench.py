"""The live bench counts right, says what it must, and measures without a browser too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from livebrush import app
from tools import live, peers, without
from tools.barcode import Mark, read
from tools.observed import observed
from tools.sightings import (
    Clock,
    drift,
    foreign,
    frozen,
    gaps,
    glass_to_glass,
    marked,
    percentiles,
    rate,
    unwrapped,
)
from tools.stage import Row, Stage

LOOP = 180
PERIOD = 1000 / 30


def camera(numbers: range | list[int], start: float = 1000.0) -> list[dict[str, Any]]:
    """What the probe saw of a camera that takes frame n at start + n periods."""
    return [{"counter": n % LOOP, "source": 0, "captured": start + n * PERIOD, "shown": start + n * PERIOD + 20}
            for n in numbers]  # fmt: skip


def picture(numbers: range | list[int], late: float, start: float = 1000.0) -> list[dict[str, Any]]:
    return [{"counter": n % LOOP, "source": 0, "captured": None, "shown": start + n * PERIOD + late}
            for n in numbers]  # fmt: skip


# ------------------------------------------------------------------------------------------------- counting


def test_latency_is_from_capture_to_the_first_showing() -> None:
    found = glass_to_glass(camera(range(100)), picture(range(10, 90), 47.0), LOOP)
    assert len(found) == 80
    assert found == pytest.approx(47.0)


def test_latency_across_the_films_beginning_and_with_frames_that_the_page_missed() -> None:
    seen = [n for n in range(400) if n % 3]  # the probe is late for every third
    found = glass_to_glass(camera(seen), picture(range(10, 390), 120.0), LOOP)
    assert len(found) == 380
    assert found == pytest.approx(120.0)


def test_a_picture_that_stays_is_one_sighting_and_an_unread_one_is_none() -> None:
    shown = picture([20, 21, 22], 50.0) + picture([22], 83.0) + [{"counter": None, "source": None, "shown": 1800.0}]
    assert len(glass_to_glass(camera(range(50)), shown, LOOP)) == 3
    assert len(marked(shown)) == 4


def test_seconds_of_latency_are_not_taken_for_none() -> None:
    assert glass_to_glass(camera(range(300)), picture(range(100, 150), 4900.0), LOOP) == pytest.approx(4900.0)


def test_a_camera_that_does_not_say_when_it_captured_counts_from_its_showing() -> None:
    rows = [r | {"captured": None} for r in camera(range(50))]
    assert glass_to_glass(rows, picture(range(20, 30), 47.0), LOOP) == pytest.approx(27.0)


def test_the_clock_needs_marked_frames() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Clock(camera([1]), LOOP)
    assert Clock(camera(range(10)), LOOP).at(5, before=1000.0) is None


def test_counters_go_on_over_the_films_beginning() -> None:
    assert unwrapped([178, 179, 0, 1, 1, 5], LOOP).tolist() == [178, 179, 180, 181, 181, 185]


def test_figures() -> None:
    assert percentiles(list(range(101))) == {"p50": 50, "p95": 95, "p99": 99, "count": 101}
    with pytest.raises(ValueError, match="nothing was measured"):
        percentiles([])
    assert drift(np.array([10.0, 10, 12, 12])) == 2
    assert gaps([0, 30, 90]).tolist() == [30, 60]
    assert frozen([0, 100, 400]) == pytest.approx(0.75)
    assert rate([{"presented": 10, "shown": 0.0}, {"presented": 40, "shown": 1000.0}]) == 30
    assert (
        len(foreign([{"counter": 1, "source": 2}, {"counter": 1, "source": 1}, {"counter": None, "source": 9}], 1)) == 1
    )


# ------------------------------------------------------------------------------------------------- the bench


def test_the_command_hands_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(live, "main", lambda *given: seen.append(given))
    result = CliRunner().invoke(app, ["bench", "--live", "--quick", "--json", str(tmp_path / "l.json")])
    assert result.exit_code == 0, result.output
    assert seen == [(True, tmp_path / "l.json")]


def test_the_report_says_what_it_must(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows by their names, the figures asked for most by plain names, and a row that fails is told, not hidden."""

    def broken(_stage: Stage) -> Row:
        raise RuntimeError("the server does not answer")

    monkeypatch.setattr(live, "BROWSER", {
        "L1": lambda _: Row("L1", "f", "h", {"p50": 46.0, "p95": 68.0, "p99": 80.0}, True), "L2": broken,
        "R4": lambda _: Row("R4", "f", "h", {"dropped": 270}, True),
    })  # fmt: skip
    monkeypatch.setattr(live, "ANYWHERE", {"C2": lambda _: [Row("C2", "f", "h", {"cpu_ms_per_frame": 7.1}, True)]})
    monkeypatch.setattr(live, "PAINTED", {})
    monkeypatch.setattr(Stage, "sees", True)
    monkeypatch.setattr(live, "conditions", lambda *_: {"client": "none"})
    live.main(quick=True, json_file=tmp_path / "l.json")
    result = json.loads((tmp_path / "l.json").read_text())
    assert result["glass_to_glass_ms"] == {"p50": 46.0, "p95": 68.0, "p99": 80.0}
    assert result["cpu_ms_per_frame"] == 7.1
    assert result["dropped_under_overload"] == 270
    assert result["quick"]
    assert result["rows"]["L1"]["holds"] is True
    assert result["rows"]["L2"] == {"figure": "", "hold": "", "value": {}, "holds": False,
                                    "note": "failed: the server does not answer"}  # fmt: skip


def test_without_a_browser_rows_are_named_that_were_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = Stage(tmp_path)
    stage.why = "no Chromium found: install one"
    monkeypatch.setattr(live, "WITHOUT", {"L1": lambda _: Row("L1", "f", "h", {}, True)})
    monkeypatch.setattr(live, "ANYWHERE", {})
    found = {row.name: row for row in live.measured(stage)}
    assert found["L1"].holds
    assert found["L5"].holds is None
    assert "no Chromium" in found["L5"].note


# ------------------------------------------------------------------------------------------------- peers and server


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_the_peers_film_is_one_packet_a_frame_and_keeps_its_marks(codec: peers.Codec) -> None:
    import av

    packets = peers.encoded(codec, 128, 6, source=3)
    assert len(packets) == 6
    decoder = av.CodecContext.create({"H264": "h264", "VP8": "vp8"}[codec], "r")
    images = [f.to_ndarray(format="rgb24") for p in packets for f in decoder.decode(av.Packet(p))]  # type: ignore[attr-defined]
    assert [read(i) for i in images] == [Mark(k, 3) for k in range(len(images))]
    assert images


def test_own_peers_measure_the_whole_way(tmp_path: Path) -> None:
    row = without.l1(Stage(tmp_path, 2.0))
    assert row.value["count"] > 30
    assert row.value["foreign"] == 0
    assert row.value["p50"] < 150  # the row's own limit is for an idle machine, and this test may not have one


def test_the_observed_server_answers_and_ends() -> None:
    with observed(delay_ms=5) as server:
        assert server.ask("worker")["state"] == "ready"
        assert server.ask("census")["tasks"] > 0
        assert server.cpu_s() > 0
        with pytest.raises(RuntimeError, match="does not answer"):
            server.ask("nothing")
    assert server.process.returncode is not None
