"""The probe in the page reads what `tools/barcode.py` draws."""

from __future__ import annotations

import base64

import cv2
import numpy as np
import pytest

from tools.barcode import PATCHES, Mark, draw, read, scene
from tools.chromium import Tab, page
from tools.observed import Observed
from tools.stage import Stage

IN_PAGE = """
async (source) => {
  const image = new Image();
  image.src = source;
  await image.decode();
  return probe.read(image, image.width, image.height);
}
"""


@pytest.mark.parametrize("size", [(512, 512), (640, 480), (256, 256), (96, 96)])
def test_page_and_numpy_read_the_same(stage: Stage, size: tuple[int, int]) -> None:
    image = scene(*size)
    with page(stage.browser(), "about:blank") as tab:
        for mark in (Mark(0), Mark(65535, 15), Mark(0xA53C, 9)):
            draw(image, mark)
            assert in_page(tab, image) == [mark.counter, mark.source]
            assert read(image) == mark
        assert in_page(tab, image[:, ::-1]) is None
        assert in_page(tab, scene(*size)) is None


def in_page(tab: Tab, image: np.ndarray) -> list[int] | None:
    png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    found: list[int] | None = tab.page.evaluate(IN_PAGE, f"data:image/png;base64,{base64.b64encode(png).decode()}")
    return found


def test_the_camera_is_ours(tab: Tab, server: Observed) -> None:
    rows = tab.take(1.0)["camera"]
    assert len(rows) > 10
    assert all(r["counter"] is not None and r["captured"] is not None for r in rows)
    assert [r["counter"] for r in rows] == sorted({r["counter"] for r in rows}) or rows[-1]["counter"] < 30
    assert np.abs(tab.patches("camera") - np.array(PATCHES)).max() < 6
