"""Rows R1 and R2 in a real browser behind a line that really loses packets, a few seconds each."""

from __future__ import annotations

import pytest
from conftest import Holds

from tools import rows_network
from tools.lossy import hindrance
from tools.observed import Observed
from tools.stage import Stage

REASON = hindrance()
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"{REASON} (CI has what it takes)")


@pytest.mark.parametrize("loss", rows_network.LOSSES)
def test_r1_packets_are_lost_and_the_picture_goes_on(stage: Stage, server: Observed, holds: Holds, loss: float) -> None:
    holds.in_time(lambda: rows_network.r1(stage, (loss,), server))


def test_r2_a_long_line_with_loss_and_jitter(stage: Stage, server: Observed, holds: Holds) -> None:
    holds.in_time(lambda: rows_network.r2(stage, server))
