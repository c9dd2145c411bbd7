"""RGB to and from YUV. H.264 is sent as BT.709, limited range, and says so in all four tags.

Stock aiortc lets swscale guess: it converts by BT.601 without a tag, browsers read untagged H.264 by its size or as
BT.709, and green comes back as 0/215/1. VP8 has no tags and is read as BT.601 by browsers, so it is sent as that.
Received pictures are read by their tags, else by the RTP extension of `extensions`, else as BT.601.
"""

from __future__ import annotations

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from numpy.typing import NDArray

from stream.frame import Image
from web.media.extensions import ColourSpace

Planes = NDArray[np.uint8]  # (height * 3 / 2, width): Y, then U and V at half the size

BT709, UNSPECIFIED, BT470BG, SMPTE170M, BT2020 = 1, 2, 5, 6, 9  # ITU-T H.273 table 4, as in FFmpeg's AVColorSpace
MATRICES = {
    BT709: Colorspace.ITU709,
    BT470BG: Colorspace.ITU601,
    SMPTE170M: Colorspace.ITU601,
    BT2020: Colorspace.BT2020,
}
UNTAGGED = Colorspace.ITU601
WEIGHTS = {Colorspace.ITU709: (0.2126, 0.0722), Colorspace.ITU601: (0.299, 0.114)}  # of red and blue in Y
GREY, SCALE_Y, SCALE_C = 128, 219 / 255, 224 / 255  # limited range (ITU-R BT.709-6 item 5.4, BT.601-7 2.5.3)


def tag(codec: av.VideoCodecContext) -> None:
    """BT.709 limited, in all four tags of an encoder (its VUI)."""
    codec.colorspace = BT709
    codec.color_primaries = ColorPrimaries.BT709
    codec.color_trc = ColorTrc.BT709
    codec.color_range = ColorRange.MPEG


def yuv_of_rgb(matrix: Colorspace) -> NDArray[np.float32]:
    """What makes limited Y, Cb and Cr of full RGB: three weights and an offset each."""
    red, blue = WEIGHTS[matrix]
    luma = np.array([red, 1 - red - blue, blue])
    cb, cr = (np.array([0, 0, 1]) - luma) / (2 - 2 * blue), (np.array([1, 0, 0]) - luma) / (2 - 2 * red)
    rows = np.stack([SCALE_Y * luma, SCALE_C * cb, SCALE_C * cr])
    return np.column_stack([rows, [16, GREY, GREY]]).astype(np.float32)


class ToPlanes:
    """RGB pictures to YUV 4:2:0 planes, limited range. Not for two threads at once.

    OpenCV takes a third of swscale's time, and is as exact.
    """

    def __init__(self, matrix: Colorspace = Colorspace.ITU709) -> None:
        self._weights = yuv_of_rgb(matrix)
        self._whole = self._half = np.empty((0, 0, 3), np.uint8)  # kept from picture to picture

    def __call__(self, image: Image) -> Planes:
        """`(height, width, 3)` uint8 to `Planes`; an odd row or column at the end is left out."""
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        if self._whole.shape[:2] != (height, width):
            self._whole = np.empty((height, width, 3), np.uint8)
            self._half = np.empty((height // 2, width // 2, 3), np.uint8)
        whole = cv2.transform(image[:height, :width], self._weights, self._whole)
        half = cv2.resize(whole, (width // 2, height // 2), self._half, interpolation=cv2.INTER_AREA)
        out = np.empty((height * 3 // 2, width), np.uint8)
        out[:height] = whole[..., 0]
        out.reshape(-1)[height * width :].reshape(2, height // 2, width // 2)[:] = half[..., 1:].transpose(2, 0, 1)
        return out


class ToRgb:
    """Decoded pictures to RGB, by their own tags. Not for two threads at once."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, told: ColourSpace | None = None) -> Image:
        """`told` is what the sender said beside the picture; it counts where the picture has no tags (VP8)."""
        full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        matrix = MATRICES.get(frame.colorspace)
        if matrix is None and told is not None:
            matrix, full = MATRICES.get(told.matrix), told.full
        matrix = UNTAGGED if matrix is None else matrix
        out = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
        return np.asarray(out.to_ndarray(), np.uint8)
