"""Prompt travel: how much of which motion and which prompt counts at each frame. Light to import, for plans."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from stream.clips.timeline import Key, Segment, Timeline, Travel

if TYPE_CHECKING:
    from torch import Tensor

    from stream.prompt import Text

PARALLEL = 0.9995  # cosine above which two vectors span no arc


def share(keys: Sequence[Key], frame: int, frames: int, loop: bool) -> tuple[str, str, float]:
    """Prompts `a` and `b`, and how much of `b` counts, 0 to below 1. Before the first key it stands still; after the
    last one too, unless the clip is a loop: there it goes back to the first key."""
    if loop:
        frame = (frame - keys[0].frame) % frames + keys[0].frame
    index = bisect_right(keys, frame, key=lambda k: k.frame) - 1
    one = keys[max(index, 0)]
    if index < 0 or len(keys) == 1 or (index == len(keys) - 1 and not loop):
        return one.prompt, one.prompt, 0.0
    other = keys[(index + 1) % len(keys)]
    way = (other.frame - one.frame) % frames
    return one.prompt, other.prompt, (frame - one.frame) / way


def shares(keys: Sequence[Key], frames: int, loop: bool) -> list[tuple[str, str, float]]:
    """`share` of every frame."""
    return [share(keys, frame, frames, loop) for frame in range(frames)]


def alphas(timeline: Timeline, frame: int) -> dict[int, float]:
    """How much each segment counts at a frame, by index; those that do not are left out. They add up to 1."""
    segments, frames = timeline.segments, timeline.frames
    index = bisect_right(segments, frame, key=lambda s: s.start or 0) - 1
    for one in (index, index - 1 if index or timeline.loop else index):
        into = _into(segments[one], frame, frames, timeline.loop)
        if into is not None:
            return _added([(one % len(segments), 1 - into), ((one + 1) % len(segments), into)])
    return {index: 1.0}


def _into(segment: Segment, frame: int, frames: int, loop: bool) -> float | None:
    """How far the cross-fade after `segment` is at a frame, above 0 and below 1; None outside of it."""
    assert segment.end is not None
    fade = segment.fade or 0
    past = frame - (segment.end - fade // 2)
    past = past % frames if loop else past
    return (past + 1) / (fade + 1) if 0 <= past < fade else None


def _added(parts: Iterable[tuple[int, float]]) -> dict[int, float]:
    found: dict[int, float] = {}
    for index, weight in parts:
        found[index] = found.get(index, 0.0) + weight
    return found


def text(timeline: Timeline, frame: int, encode: Callable[[str], Text]) -> Text:
    """What conditions one frame of a resolved timeline, one row. `encode` is asked for the same prompt again and
    again: it should remember."""
    from stream.prompt import Text

    found = alphas(timeline, frame)
    parts = {i: _track(timeline, i, frame) for i in found}
    if len(set(parts.values())) == 1:
        return between(*next(iter(parts.values())), encode, timeline.travel)
    texts = [between(*parts[i], encode, timeline.travel) for i in found]
    return Text.blend(texts, list(found.values()))


def texts(timeline: Timeline, frames: Iterable[int], encode: Callable[[str], Text]) -> Text:
    """`text` of several frames, one row each."""
    from stream.prompt import Text

    return Text.cat([text(timeline, frame, encode) for frame in frames])


def _track(timeline: Timeline, index: int, frame: int) -> tuple[str, str, float]:
    """Where the prompt of one segment is at a frame: its own keys hold outside of it, the timeline's go round."""
    segment = timeline.segments[index]
    keys = segment.keys or (Key(frame=0, prompt=segment.prompt or ""),)
    whole = len(timeline.segments) == 1 or keys == timeline.keys
    if timeline.loop and not whole:
        assert segment.start is not None
        assert segment.end is not None
        middle = (segment.start + segment.end) // 2
        frame = (frame - middle + timeline.frames // 2) % timeline.frames + middle - timeline.frames // 2
    return share(keys, frame, timeline.frames, timeline.loop and whole)


def between(a: str, b: str, part: float, encode: Callable[[str], Text], travel: Travel) -> Text:
    """The `Text` that lies at `part` of the way from prompt `a` to prompt `b`."""
    from stream.prompt import Text

    if part == 0 or a == b:
        return encode(a)
    one, other = encode(a), encode(b)
    if travel == "lerp":
        return Text.blend([one, other], [1 - part, part])
    pooled = None if one.pooled is None or other.pooled is None else slerp(one.pooled, other.pooled, part)
    return Text(slerp(one.tokens, other.tokens, part), pooled, one.time_ids)


def slerp(a: Tensor, b: Tensor, part: float) -> Tensor:
    """Spherical interpolation of the vectors in the last dimension, linear where they are all but parallel.

    Shoemake, Animating Rotation with Quaternion Curves, 1985.
    """
    import torch

    wide, other = a.float(), b.float()
    cosine = torch.nn.functional.cosine_similarity(wide, other, dim=-1).unsqueeze(-1)
    angle = torch.acos(cosine.clamp(-PARALLEL, PARALLEL))
    arc = (torch.sin((1 - part) * angle) * wide + torch.sin(part * angle) * other) / torch.sin(angle)
    return torch.where(cosine.abs() > PARALLEL, torch.lerp(wide, other, part), arc).to(a.dtype)
