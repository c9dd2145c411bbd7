"""How many bits a second to send: the smaller of what the receiver estimates (REMB) and what its loss allows.

The stock sender follows REMB alone, which does not know loss: more bits then make loss worse. The rule for loss is the
loss-based controller of draft-ietf-rmcat-gcc-02, section 6.
"""

from __future__ import annotations

from dataclasses import dataclass

EXPECTED = 512, 512  # size of a picture that nobody has seen yet
LOSS = 0.02  # share of packets: less is no sign of a full link
DELAY_S = 0.1  # over the shortest round trip: a queue on the way
PROVEN = 0.5  # of the start rate: what a receiver's estimate alone does not go below
TOLERANCE = 0.3  # of the encoder's rate; less is not worth a new encoder with its key frame


@dataclass(frozen=True, slots=True)
class Limits:
    """Bits a second."""

    low: int
    start: int
    high: int

    @classmethod
    def of(cls, width: int, height: int) -> Limits:
        """For a picture of that size at about 30 frames a second: 2.5 Mbit/s to start with at 512x512."""
        start = 2.5e6 * (width * height / 512**2) ** 0.75
        return cls(int(start / 10), int(start), int(start * 2))


class Rate:
    """One sender's rate; `target` in bits a second."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.estimate: int | None = None  # the receiver's: REMB
        self.allowed = float(limits.start)  # by loss
        self.loss = 0.0
        self.delay_s = 0.0  # of the round trip, over the shortest
        self._least_rtt_s = float("inf")

    @property
    def target(self) -> int:
        wanted = self.allowed if self.estimate is None else min(self.allowed, self._believed(self.estimate))
        return round(min(max(wanted, self.limits.low), self.limits.high))

    @property
    def crowded(self) -> bool:
        """Whether there is a sign of a full line: packets that are lost, or that queue on their way."""
        return self.loss >= LOSS or self.delay_s >= DELAY_S

    def _believed(self, estimate: int) -> float:
        """A receiver estimates what it got, and a still picture is little: a low estimate alone proves nothing."""
        return estimate if self.crowded else max(estimate, self.limits.start * PROVEN)

    def report(self, loss: float, rtt_s: float | None = None) -> None:
        """A receiver report says that this share of the packets, 0 to 1, was lost since the last one."""
        self.loss = loss
        if rtt_s is not None:
            self._least_rtt_s = min(self._least_rtt_s, rtt_s)
            self.delay_s = rtt_s - self._least_rtt_s
        if loss > 0.1:
            self.allowed = max(self.limits.low, self.target * (1 - 0.5 * loss))
        elif loss < LOSS:
            self.allowed = min(self.limits.high, self.allowed * 1.05)

    def resize(self, width: int, height: int) -> None:
        """Another size of picture: its limits; what is known of the way stays."""
        limits = Limits.of(width, height)
        if limits == self.limits:
            return
        self.allowed *= limits.start / self.limits.start
        self.limits = limits


def worth_a_rebuild(built: int, target: int) -> bool:
    """Whether an encoder built for `built` bits a second is to be replaced."""
    return abs(target - built) > TOLERANCE * built
