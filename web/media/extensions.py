"""The RTP header extension that tells a picture's colours, which VP8 has no other way to tell.

A browser sends it with key frames (webrtc.googlesource.com, docs/native-code/rtp-hdrext/color-space). Of Chromium's
VP8, a canvas is BT.709 in full range and a camera BT.601 in limited range: without this nobody could know.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters, RTCRtpParameters
from aiortc.rtp import HeaderExtensions, HeaderExtensionsMap, unpack_header_extensions

COLOUR_SPACE = "http://www.webrtc.org/experiments/rtp-hdrext/color-space"
LIMITED, FULL = 1, 2


@dataclass(frozen=True, slots=True)
class ColourSpace:
    """Code points of ITU-T H.273; `full` range or limited."""

    matrix: int
    full: bool

    @classmethod
    def parse(cls, value: bytes) -> ColourSpace | None:
        """Primaries, transfer, matrix, range and chroma siting, a byte each; what may follow tells of HDR."""
        if len(value) < 4:
            return None
        return cls(value[2], value[3] >> 4 & 3 == FULL)


@dataclass
class Extensions(HeaderExtensions):
    colour_space: ColourSpace | None = None


class ExtensionsMap(HeaderExtensionsMap):
    """aiortc's, which drops what it does not know, and the colour space."""

    def __init__(self) -> None:
        super().__init__()
        self._colour_space: int | None = None

    def configure(self, parameters: RTCRtpParameters) -> None:
        super().configure(parameters)
        for extension in parameters.headerExtensions:
            if extension.uri == COLOUR_SPACE:
                self._colour_space = extension.id

    def get(self, extension_profile: int, extension_value: bytes) -> HeaderExtensions:
        """ValueError where they are malformed, which drops the packet: anything else ends the connection."""
        try:
            values = super().get(extension_profile, extension_value)
        except struct.error as error:
            raise ValueError(f"a header extension of another length: {error}") from error
        if self._colour_space is None:
            return values
        found = dict(unpack_header_extensions(extension_profile, extension_value)).get(self._colour_space)
        return values if found is None else Extensions(**vars(values), colour_space=ColourSpace.parse(found))


def heed_colours(transport: RTCDtlsTransport) -> None:
    """Puts the map in place of the stock one, before anything is configured."""
    transport._rtp_header_extensions_map = ExtensionsMap()


def common(offered: list[RTCRtpHeaderExtensionParameters]) -> list[RTCRtpHeaderExtensionParameters]:
    """The extensions of an offer that only this module knows."""
    return [extension for extension in offered if extension.uri == COLOUR_SPACE]
