"""Row R5: a hundred connections come and go, and nothing of them stays; the bench makes five hundred."""

from __future__ import annotations

import pytest
from conftest import Holds

from tools.rows_robust import r5
from tools.stage import Stage

pytestmark = pytest.mark.beside


def test_a_hundred_connections_leave_nothing_behind(stage: Stage, holds: Holds) -> None:
    holds(r5(stage, 100))
