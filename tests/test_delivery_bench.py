"""The delivery bench and the soak: they count right, say what they must, and measure without a browser too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from livebrush import app
from tools import bench_delivery, delivery_page, peers, rows_limits, soak, without
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
command = typer.Typer()
command.command()(bench_delivery.command)
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
    monkeypatch.setattr(bench_delivery, "main", lambda *given: seen.append(given))
    result = CliRunner().invoke(app, ["bench", "--live", "--quick", "--json", str(tmp_path / "l.json")])
    assert result.exit_code == 0, result.output
    assert seen == [(True, tmp_path / "l.json")]


def broken(_stage: Stage) -> Row:
    raise RuntimeError("the server does not answer")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of three measurements, and a machine that is not asked."""
    monkeypatch.setattr(bench_delivery, "ROWS", {
        "L1": lambda _: Row("L1", "f", "h", {"p50": 46.0, "p95": 68.0, "p99": 80.0}, True), "L2": broken,
        "C2, R10": lambda _: [
            Row("C2", "f", "h", {"cpu_ms_per_frame": 7.1}, True), Row("R10", "f", "h", {"p99": 3}, True),
        ],
        "R4": lambda _: Row("R4", "f", "h", {"dropped": 270}, True),
    })  # fmt: skip
    monkeypatch.setattr(Stage, "sees", True)
    monkeypatch.setattr(bench_delivery, "conditions", lambda *_: {"client": "none"})


def test_the_report_says_what_it_must(told: None, tmp_path: Path) -> None:
    """Rows by their names, the figures asked for most by plain names, and a row that fails is told, not hidden."""
    assert not bench_delivery.main(quick=True, json_file=tmp_path / "l.json")
    result = json.loads((tmp_path / "l.json").read_text())
    assert result["glass_to_glass_ms"] == {"p50": 46.0, "p95": 68.0, "p99": 80.0}
    assert result["cpu_ms_per_frame"] == 7.1
    assert result["dropped_under_overload"] == 270
    assert result["event_loop_lag_ms"] == {"p99": 3}
    assert result["quick"]
    assert result["rows"]["L1"]["holds"] is True
    assert result["rows"]["L2"] == {"figure": "", "hold": "", "value": {}, "holds": False,
                                    "note": "failed: the server does not answer"}  # fmt: skip


def test_some_rows_may_be_asked_for_and_the_file_grows_with_them(told: None, tmp_path: Path) -> None:
    sizes: list[int] = []
    bench_delivery.measure(1.0, ["R10", "L1"], lambda _name, _fresh, so_far: sizes.append(len(so_far["rows"])))
    assert sizes == [1, 3]
    result = CliRunner().invoke(command, ["--rows", "R3"])
    assert result.exit_code == 2
    assert "row 'R3' is not known: name some of L1, L2, C2, R10, C2, R10, R4" in result.output.replace("\n", " ")


def test_every_row_of_the_table_is_measured_and_drawn() -> None:
    """But for those that are right or wrong, and no figure."""
    named = {name.split()[0] for group in bench_delivery.ROWS for name in group.split(", ")}
    table = {f"{kind}{k}" for kind, last in {"L": 6, "C": 4, "R": 12, "S": 4}.items() for k in range(1, last + 1)}
    assert named - {"built-in"} == table - {"R3", "R11"}, "the table has no R3 and no R11"
    drawn = {bar.row.split()[0] for bar in delivery_page.BARS}
    assert drawn == named - {"built-in", "C4", "S1", "S2", "S3"}


def test_without_a_browser_rows_are_named_that_were_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = Stage(tmp_path)
    stage.why = "no Chromium found: install one"
    monkeypatch.setattr(bench_delivery, "WITHOUT", {"L1": lambda _: Row("L1", "f", "h", {}, True)})
    work = bench_delivery.chosen(["L1", "L5"])
    found = {name: row for name, (row,) in bench_delivery.measured(stage, work)}
    assert found["L1"].holds
    assert found["L5"].holds is None
    assert "no Chromium" in found["L5"].note


def test_a_page_and_a_plot_are_made_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that hold, that do not, that were not measured; a figure that is not there is left out."""
    rows = {
        "L1": {"figure": "glass", "hold": "<= 65", "value": {"p50": 46.0, "p95": 168.0}, "holds": False, "note": ""},
        "L4": {"figure": "at 2 s", "hold": ">= 2", "value": {"mbit_s": 0.0}, "holds": False, "note": "nothing | came"},
        "C4": {"figure": "isolation", "hold": "0", "value": {"foreign": [0, 0]}, "holds": True, "note": ""},
        "R2": {"figure": "loss", "hold": "p95 <= 400", "value": {}, "holds": None, "note": "not measured: no nft"},
    }  # fmt: skip
    where = {"date": "2026-11-28T10:00:00", "cores": 2, "processor": "P", "client": "Chromium 1", "system": "Linux",
             "python": "3.11", "versions": {"aiortc": "1.16"}, "load_average": [0.1],
             "seconds_a_figure": 6.0}  # fmt: skip
    result = {"rows": rows, "conditions": where, "quick": True}
    bars = {(bar.row, bar.what): delivery_page.share(bar, got) for bar, got in delivery_page.measured(result)}
    assert list(bars.values()) == pytest.approx([46 / 65, 1.68, 1000.0])
    page = delivery_page.page(result, "d.json")
    assert (
        "| L1 | glass | <= 65 | glass to glass, H.264, p50 46 ms, glass to glass, H.264, p95 168 ms | **no** |" in page
    )
    assert r"nothing \| came" in page
    assert "| foreign [0, 0] | yes |" in page
    assert "not measured: no nft | not measured |" in page
    monkeypatch.setattr(delivery_page, "IMAGES", tmp_path)
    (tmp_path / "d.json").write_text(json.dumps(result))
    monkeypatch.setattr("sys.argv", ["delivery_page", str(tmp_path / "d.json")])
    delivery_page.main()
    assert (tmp_path / "d.md").read_text() == page
    assert (tmp_path / "delivery.png").stat().st_size > 10_000


# ------------------------------------------------------------------------------------------------- the soak


def soaking(latency: list[float], memory: list[float], restarts: int = 0) -> soak.Soak:
    """Ten minutes, a sample each minute and more."""
    made = soak.Soak(10.0, 1, "fake")
    for k, (ms, mb) in enumerate(zip(latency, memory, strict=True)):
        at = 600 * (k + 1) / len(latency)
        made.samples.append(soak.Sample(at, mb, 50.0, [30.0], [ms], 40.0, 3.0, restarts))
    return made


def test_a_soak_holds_while_memory_and_latency_are_flat() -> None:
    level = [50.0] * 40
    warming = [100.0] * 6 + [150.0] * 34  # in the first tenth and a half: not counted
    assert soaking(level, warming).verdict()["holds"] is True
    growing = [100 + 10 * k / 39 * 1.2 for k in range(40)]  # 1.2 MB a minute
    found = soaking(level, growing).verdict()
    assert (found["server_mb_per_minute"], found["holds"]) == (pytest.approx(1.2, abs=0.05), False)
    late = soaking([50.0] * 32 + [70.0] * 8, warming).verdict()
    assert (late["more_ms"], late["holds"]) == (pytest.approx(20, abs=3), False)
    assert soaking(level, warming, restarts=1).verdict()["holds"] is False
    gone = soaking(level, warming)
    gone.ended = "ended by Ctrl-C"
    assert gone.verdict()["holds"] is False
    short = soaking(level, warming)
    short.samples = short.samples[:10]
    assert short.verdict()["holds"] is None


def test_ten_seconds_of_two_sessions(tmp_path: Path) -> None:
    """The machinery on the real thing: too short for a word on slopes."""
    asked = ["--minutes", "0.17", "--sessions", "2", "--model", "pass-through", "--json", str(tmp_path / "s.json"),
             "--plot", str(tmp_path / "s.png")]  # fmt: skip
    soak_app = typer.Typer()
    soak_app.command()(soak.main)
    done = CliRunner().invoke(soak_app, asked)
    result = json.loads((tmp_path / "s.json").read_text())
    assert done.exit_code == 0, (done.output, result["ended"])
    assert result["ended"] == ""
    assert len(result["samples"]) >= 5
    assert all(len(s["latency_ms"]) == 2 and s["server_mb"] > 20 and s["worker_mb"] > 10 for s in result["samples"])
    assert result["verdict"]["restarts"] == 0
    assert result["verdict"]["holds"] is None
    assert (tmp_path / "s.png").exists()


def test_a_soak_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*_: Any) -> Any:
        yield soak.Sample(1.0, 50, 50, [30.0], [40.0], 40, 3, 0)
        raise RuntimeError("the peers ended")

    monkeypatch.setattr(soak, "soaked", dying)
    result = soak.run(soak.Soak(1.0, 1, "fake"), tmp_path / "s.json", None, False, Console(quiet=True))
    assert result["ended"] == "failed: the peers ended"
    assert json.loads((tmp_path / "s.json").read_text()) == result


# ------------------------------------------------------------------------------------------------- rows on limits


@pytest.mark.parametrize("row", ["s1", "s2", "s3", "s4"])
def test_limits_hold(tmp_path: Path, row: str) -> None:
    found = getattr(rows_limits, row)(Stage(tmp_path, 1.0))
    assert found.holds, found.value


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


@pytest.mark.alone
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
