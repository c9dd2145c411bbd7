"""GIFs: one palette for the whole clip, made of all its pictures by FFmpeg's palettegen, and dithered with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.filter
import numpy as np
from av.filter.context import FilterContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from stream.clips.chunks import into_gif
from stream.clips.spool import Spool
from stream.frame import Image
from stream.sinks import told
from stream.sinks.video import coding_told

if TYPE_CHECKING:
    from stream.clips.write import Target

CLOCK = Fraction(1, 100)  # a GIF counts hundredths of a second
PIXELS = "bgra"


def write_gif(to: Target, images: Iterator[Image], spool: Path, manifest: str) -> None:
    """Each picture is shown at the hundredth nearest to its time, so that the clip keeps its length."""
    with Spool(spool, to.path) as kept:
        palette = Palette()
        for image in images:
            kept.put(image)
            palette.see(image)
        with coding_told(to.path):
            _encode(to, kept, palette.made())
    with told(to.path):
        into_gif(to.made, manifest)


class Palette:
    """The 256 colours that serve all pictures best."""

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None

    def see(self, image: Image) -> None:
        self._graph = self._graph or _line(image, ("palettegen", "stats_mode=full"))
        self._graph.push(_frame(image, 0))

    def made(self) -> VideoFrame:
        assert self._graph is not None
        self._graph.push(None)
        found = self._graph.pull()
        assert isinstance(found, VideoFrame)
        return found


def _line(image: Image, *filters: tuple[str, str]) -> av.filter.Graph:
    """A graph of filters in a row."""
    graph = av.filter.Graph()
    steps = [graph.add(*f) for f in filters]
    graph.link_nodes(_buffer(graph, image.shape), *steps, graph.add("buffersink")).configure()
    return graph


def _buffer(graph: av.filter.Graph, shape: tuple[int, ...]) -> FilterContext:
    return graph.add_buffer(width=shape[1], height=shape[0], format=VideoFormat(PIXELS), time_base=CLOCK)


def _frame(image: Image, pts: int) -> VideoFrame:
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format=PIXELS)
    frame.pts, frame.time_base = pts, CLOCK
    return frame


class Dithering:
    """Pictures in the colours of a palette."""

    def __init__(self, image: Image, palette: VideoFrame) -> None:
        self._graph = graph = av.filter.Graph()
        pictures, colours = _buffer(graph, image.shape), _buffer(graph, (palette.height, palette.width))
        painted, out = graph.add("paletteuse", "dither=sierra2_4a:diff_mode=rectangle"), graph.add("buffersink")
        pictures.link_to(painted)
        colours.link_to(painted, 0, 1)
        painted.link_to(out)
        graph.configure()
        palette.pts, palette.time_base = 0, CLOCK
        graph.push(palette, at=1)
        graph.push(None, at=1)

    def paint(self, image: Image | None, pts: int = 0) -> Iterator[VideoFrame]:
        """What is ready; None flushes."""
        self._graph.push(None if image is None else _frame(image, pts), at=0)
        with suppress(av.BlockingIOError, av.EOFError):
            while True:
                yield self._graph.vpull()


def _encode(to: Target, kept: Spool, palette: VideoFrame) -> None:
    images = iter(kept)
    first = next(images)
    dithering = Dithering(first, palette)
    shown = _at(to, kept.count) - _at(to, kept.count - 1)  # the last picture; FFmpeg takes the others' from their times
    with av.open(str(to.made), "w", "gif", options={"fflags": "+bitexact", "final_delay": str(shown)}) as out:
        stream = out.add_stream("gif", rate=to.rate)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = "pal8", CLOCK
        for index, image in enumerate(chain([first], images)):
            for frame in dithering.paint(image, _at(to, index)):
                out.mux(stream.encode(frame))
        for frame in dithering.paint(None):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def _at(to: Target, index: int) -> int:
    return round(index / to.rate / CLOCK)
