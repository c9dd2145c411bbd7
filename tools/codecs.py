"""What the codecs alone cost on this machine: the floor under every peer, whatever the server around them does.

    python -m tools.codecs    # processor ms a picture, one process

Decoding, RGB, YUV and encoding of a 512x512 picture by H.264, as a peer takes them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

from tools.observed import limited

ROOT = Path(__file__).parents[1]
SIDE, PICTURES, ROUNDS = 512, 60, 4
PATIENCE_S = 60.0
ABLE_MS = 3.5  # of a core for a picture: where it is no more, every row of the table can hold, six peers among them


def spent() -> float:
    """Processor ms a picture takes in this process."""
    from tools.peers import encoded
    from web.media.colour import ToPlanes, ToRgb
    from web.media.decode import Decoder
    from web.media.encode import make_encoder
    from web.media.rate import EXPECTED, Limits, Rate

    film = encoded("H264", SIDE, PICTURES)
    decoder, rgb, planes = Decoder("H264"), ToRgb(), ToPlanes()
    encoder = make_encoder("H264", Rate(Limits.of(*EXPECTED)))
    count, begun = 0, time.process_time()
    for number, data in enumerate(film * ROUNDS):
        for picture in decoder.pictures(data):
            encoder.payloads(planes(rgb(picture)), number * 3000, key=False)
            count += 1
    return (time.process_time() - begun) * 1000 / count


def alone() -> float:
    """Processor ms a picture takes with every core at work, as cores that share their parts are slower together."""
    command = [sys.executable, "-m", "tools.codecs"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)  # noqa: S603 (ourselves)
               for _ in range(os.cpu_count() or 1)]  # fmt: skip
    return round(mean(said(process) for process in running), 2)


def said(process: subprocess.Popen[str]) -> float:
    """The figure of one process; ValueError where it has none."""
    with limited(process, PATIENCE_S):
        text, _ = process.communicate()
    return float(text)


if __name__ == "__main__":
    sys.stdout.write(f"{spent()}\n")
