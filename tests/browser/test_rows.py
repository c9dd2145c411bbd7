"""The delivery table, row by row, in a real browser: each function measures as `livebrush bench --live` does, for a few
seconds, and its own word on whether the row holds is what is tested, figures of time as `Holds` says."""

from __future__ import annotations

import pytest
from conftest import Holds

from tools import rows
from tools.stage import Stage


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_l1_glass_to_glass(stage: Stage, holds: Holds, codec: str) -> None:
    holds.in_time(lambda: rows.l1(stage, codec))


def test_l2_a_slow_engine_gets_the_newest_frame(stage: Stage, holds: Holds) -> None:
    holds.in_time(lambda: rows.l2(stage))


def test_l3_the_first_picture_is_there_at_once(stage: Stage, holds: Holds) -> None:
    holds.in_time(lambda: rows.l3(stage))


def test_l4_the_uplink_is_wide_from_the_start(stage: Stage, holds: Holds) -> None:
    holds.in_time(lambda: rows.l4(stage))


def test_l5_colours_come_back_as_they_were(stage: Stage, holds: Holds) -> None:
    holds(rows.l5(stage))


def test_l6_a_setting_is_seen_within_two_frames(stage: Stage, holds: Holds) -> None:
    holds.in_time(lambda: rows.l6(stage, 3))


def test_c1_c2_r10_six_peers_at_once(stage: Stage, holds: Holds) -> None:
    seen = holds.in_time(lambda: rows.crowd(stage))
    crowds = [row.value for row in seen if row.name == "C1"]
    assert all("queue" in crowd["refused"] for crowd in crowds)
    assert min(crowds[-1]["fps"]) >= 0.6 * max(crowds[-1]["fps"]), "nobody is left behind"


def test_c3_one_more_viewer_costs_no_encode(stage: Stage, holds: Holds) -> None:
    holds.in_time(lambda: rows.c3(stage))


def test_c4_two_tabs_see_nothing_of_each_other(stage: Stage, holds: Holds) -> None:
    holds(rows.c4(stage, 200))


def test_r4_nothing_queues_up_under_overload(stage: Stage, holds: Holds) -> None:
    holds.in_time(lambda: rows.r4(stage))


def test_r9_the_engine_fails_and_the_page_goes_on(stage: Stage, holds: Holds) -> None:
    seen = holds.in_time(lambda: rows.r9(stage))
    assert all(row.value["same_session"] and row.value["connections"] == 1 for row in seen)
