"""Small pictures and videos for the tests, made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image

from stream.frame import Image

SIZE = (96, 64)
BITS = 8
QUICK = {"libx264": {"crf": "10"}, "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}}
SOUND_RATE = 48000


def coded(index: int, size: tuple[int, int] = SIZE) -> Image:
    """A picture that says its number in black and white columns, and survives coding and scaling."""
    width, height = size
    bits = [(index >> k) & 1 for k in range(BITS)]
    columns = np.repeat(np.array(bits, np.uint8) * 200 + 28, -(-width // BITS))[:width]
    return np.repeat(np.repeat(columns[None, :, None], height, axis=0), 3, axis=2)


def picture(path: Path) -> Image:
    """The pixels of a picture file."""
    with PIL.Image.open(path) as file:
        return np.array(file)


def number(image: Image) -> int:
    """The number in a `coded` picture."""
    width = image.shape[1] / BITS
    middles = [round((k + 0.5) * width) for k in range(BITS)]
    row = image[image.shape[0] // 2].mean(axis=-1)
    return sum((row[m] > 128) << k for k, m in enumerate(middles))


def steady(frames: int) -> list[int]:
    """Times in milliseconds, 25 frames a second."""
    return [40 * i for i in range(frames)]


def uneven(frames: int) -> list[int]:
    """Times in milliseconds at a rate that varies."""
    gaps = [33, 33, 50, 120, 20]
    return [sum(gaps[k % len(gaps)] for k in range(i)) for i in range(frames)]


def video(
    path: Path,
    frames: int = 12,
    *,
    times: Sequence[int] | None = None,
    size: tuple[int, int] = SIZE,
    codec: str = "libx264",
    sound: str | None = None,
    turned: int = 0,
    pixel: Fraction | None = None,
    front: bool = False,
    gop: int = 250,
    grain: int = 0,
) -> Path:
    """A video of `coded` pictures at `times` milliseconds, with a tone of the same length in codec `sound`.

    `grain` levels of noise make it larger.
    """
    times, chance = steady(frames) if times is None else times, np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "+faststart"} if front else {}) as out:
        stream = out.add_stream(codec, rate=25, options=QUICK.get(codec, {}))
        stream.width, stream.height = size
        stream.pix_fmt = {"gif": "gray"}.get(codec, "yuv420p")
        stream.codec_context.time_base = Fraction(1, 1000) if codec != "gif" else Fraction(1, 100)
        stream.codec_context.gop_size = gop
        if pixel:
            stream.codec_context.sample_aspect_ratio = pixel
        if turned:
            stream.set_display_rotation(turned)
        track = out.add_stream(sound, rate=SOUND_RATE, layout="mono") if sound else None
        for index, time in enumerate(times):
            image = coded(index, size) + chance.integers(0, grain + 1, (size[1], size[0], 1), np.uint8)
            picture = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=stream.pix_fmt)
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
        if track is not None:
            for piece in tone((times[-1] + 40) / 1000):
                out.mux(track.encode(piece))
            out.mux(track.encode(None))
    return path


def tone(seconds: float) -> list[av.AudioFrame]:
    """A sine of 440 Hz in pieces of 1024 samples, silent in its first half."""
    at = np.arange(int(seconds * SOUND_RATE))
    wave = np.sin(at / SOUND_RATE * 2 * np.pi * 440) * 12000 * (at > len(at) // 2)
    pieces = []
    for start in range(0, len(at), 1024):
        piece = av.AudioFrame.from_ndarray(wave[None, start : start + 1024].astype(np.int16), "s16", "mono")
        piece.sample_rate, piece.pts, piece.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
        pieces.append(piece)
    return pieces


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        track = out.add_stream("aac", rate=SOUND_RATE, layout="mono")
        for piece in tone(0.3):
            out.mux(track.encode(piece))
        out.mux(track.encode(None))
    return path


def spoil_middle(path: Path) -> None:
    """Puts noise over several frames of a video; less may decode by chance, since H.264 has no checksums."""
    content = bytearray(path.read_bytes())
    start, end = len(content) // 3, len(content) // 2
    content[start:end] = np.random.default_rng(0).bytes(end - start)
    path.write_bytes(content)


def no_frames(path: Path) -> Path:
    """A video whose track is there, and empty."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        out.start_encoding()
    return path


def seconds(path: Path) -> list[float]:
    """When the frames of a video are shown."""
    with av.open(str(path)) as file:
        return [float(f.pts * f.time_base) for f in file.decode(video=0)]


def numbers(path: Path) -> list[int]:
    """The numbers of a video's frames."""
    with av.open(str(path)) as file:
        return [number(f.to_ndarray(format="rgb24")) for f in file.decode(video=0)]


def sound_of(path: Path) -> tuple[str, float, float]:
    """Codec of the sound, its length in seconds, and when it stops being silent."""
    with av.open(str(path)) as file:
        name = file.streams.audio[0].codec_context.name
        loud, end = None, 0.0
        for piece in file.decode(audio=0):
            begin = float(piece.pts * piece.time_base)
            level = np.abs(piece.to_ndarray().astype(np.float64)).reshape(-1)
            level = level / (32768 if piece.format.name.startswith("s16") else 1)
            found = np.flatnonzero(level > 0.1)
            if loud is None and len(found):
                loud = begin + found[0] / piece.sample_rate
            end = begin + piece.samples / piece.sample_rate
    return name, end, loud or -1.0
