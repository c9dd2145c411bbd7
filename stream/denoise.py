"""The stream batch: rows of every stream, at every step, in one call of the denoiser.

Method: Kodaira et al., StreamDiffusion, arXiv 2312.12491. A *row* is one latent at one step for one frame. It keeps
what it entered with (its frame's tag, its stream's `Steering`) until it leaves, so that a changed setting never
touches a frame in flight.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stream.guidance import (
    Guidance,
    Prediction,
    boundary,
    epsilon_from,
    guide,
    residual_after,
    x0_from,
    x0_from_epsilon,
)
from stream.prompt import Text
from stream.schedule import Schedule

Denoiser = Callable[[Tensor, Tensor, Text], Tensor]
PLANS = 64  # compositions remembered; a handful of streams in steady state needs one or two


def draw_noise(seed: int, steps: int, shape: Sequence[int], device: torch.device) -> Tensor:
    """A stream's noise, `(steps, *shape)`: drawn on the CPU, so that a seed gives the same picture everywhere, and
    step by step, so that more steps leave the first ones' noise alone."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.stack([torch.randn(*shape, generator=generator) for _ in range(steps)]).to(device)


@dataclass(frozen=True, eq=False)
class Steering:
    """What a stream's frames enter with. A changed setting makes a new one; rows in flight keep theirs.

    `noise` is `(steps, 4, h, w)`, held for the stream's life so that a still input gives a still picture.
    """

    schedule: Schedule
    text: Text
    negative: Text
    noise: Tensor
    guidance: Guidance = "none"
    scale: float = 1.0
    delta: float = 1.0
    add_noise: bool = True

    @property
    def guided(self) -> bool:
        return self.guidance != "none" and self.scale > 1


@dataclass(frozen=True, eq=False)
class Entry:
    """A frame that enters: its latent `(4, h, w)`, or None to start from `noise` alone, and a tag to know it by."""

    tag: Any
    latent: Tensor | None
    noise: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Left:
    """A frame that left. `primed` ones are early copies that filled the first ticks; the frame itself still comes."""

    tag: Any
    latent: Tensor
    primed: bool


@dataclass(eq=False, slots=True)
class Row:
    """One latent in flight."""

    steering: Steering
    tag: Any
    step: int
    leave_in: int  # ticks until it leaves
    x: Tensor  # (1, 4, h, w)
    residual: Tensor  # (1, 4, h, w)
    primed: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything about a composition of rows that does not depend on their latents, made once and kept."""

    held: tuple[Steering, ...]  # keeps alive what the key's ids stand for
    t: Tensor
    text: Text
    a: Tensor
    b: Tensor
    c_skip: Tensor
    c_out: Tensor
    extra: Tensor | None  # rows that also go through the unconditional network
    guided: Tensor | None  # rows that are guided at all
    own: Tensor | None  # where `extra` rows overwrite the residual: initialize, first step
    own_from: Tensor | None
    full: Tensor | None  # where `extra` rows are the unconditional prediction: full
    full_from: Tensor | None
    scale: Tensor
    delta: Tensor
    moving: Tensor | None  # rows that go on to their next step
    a_next: Tensor
    b_next: Tensor
    noise_next: Tensor
    fresh: Tensor  # b_next noise_next, 0 where no noise is added on the way
    residual: bool  # some moving row carries a residual


class StreamBatch:
    """Owns the rows in flight of any number of streams. Nobody else sees them.

    `denoiser(latents, t, text)` takes `(rows, 4, h, w)`, `(rows,)` and a `Text` of as many rows, and returns the
    prediction, of the latents' shape and of the kind `prediction`. All arithmetic here is float32.
    """

    def __init__(self, denoiser: Denoiser, prediction: Prediction = "epsilon") -> None:
        self.denoiser = denoiser
        self.prediction: Prediction = prediction
        self._lanes: dict[Hashable, list[Row]] = {}  # oldest first
        self._plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()

    def in_flight(self, stream: Hashable) -> list[Any]:
        """Tags of a stream's frames in flight, oldest first, early copies left out."""
        return [r.tag for r in self._lanes.get(stream, []) if not r.primed]

    def close(self, stream: Hashable) -> None:
        """Forgets a stream and its rows."""
        self._lanes.pop(stream, None)

    @torch.inference_mode()
    def tick(self, entering: Mapping[Hashable, tuple[Steering, Sequence[Entry]]]) -> dict[Hashable, list[Left]]:
        """One step of every stream named, with the frames that enter it (none: its rows only move on).

        All rows of one latent shape share one call of the denoiser. Returns, for each stream, the frames that left,
        in the order in which they entered.
        """
        lanes = {s: self._lanes.setdefault(s, []) for s in entering}
        for stream, (steering, entries) in entering.items():
            self._enter(lanes[stream], steering, entries)
        rows = [r for lane in lanes.values() for r in reversed(lane)]
        shapes: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            shapes.setdefault(tuple(row.x.shape), []).append(row)
        left: dict[int, Left] = {}
        for group in shapes.values():
            self._step(group, left)
        out = {}
        for stream, lane in lanes.items():
            out[stream] = [left[id(r)] for r in lane if id(r) in left]
            lane[:] = [r for r in lane if id(r) not in left]
        return out

    # ------------------------------------------------------------------------------------------- entering

    def _enter(self, lane: list[Row], steering: Steering, entries: Sequence[Entry]) -> None:
        """Puts frames at the first step, and early copies wherever a tick would else have nothing to show."""
        if not entries:
            return
        n = len(steering.schedule)
        for row in lane:  # nobody is overtaken: older frames leave no later than these
            row.leave_in = min(row.leave_in, n - 1)
        taken = {r.leave_in for r in lane}
        for slot in (s for s in range(n) if s not in taken or s == n - 1):
            lane.extend(self._row(steering, entry, slot) for entry in entries)

    def _row(self, steering: Steering, entry: Entry, leave_in: int) -> Row:
        """A frame that leaves in `leave_in` ticks: with a picture at the step that is that far from the last one;
        noise alone enters at the first step, and an early copy of it leaves half done."""
        schedule = steering.schedule
        step = 0 if entry.latent is None else len(schedule) - 1 - leave_in
        noise = steering.noise[step] if entry.noise is None else entry.noise
        a, b = schedule.a[step], schedule.b[step]
        x = noise if entry.latent is None else torch.add(entry.latent * a, noise, alpha=b)
        return Row(steering, entry.tag, step, leave_in, x[None], noise[None], primed=leave_in < schedule.delay)

    # ------------------------------------------------------------------------------------------- stepping

    def _step(self, rows: list[Row], left: dict[int, Left]) -> None:
        plan = self._plan(rows)
        x = torch.cat([r.x for r in rows])
        x0, eps, residual = self._predict(plan, x, rows)
        x0 = boundary(x0, x, plan.c_skip, plan.c_out)
        moved = moved_residual = None
        if plan.moving is not None:
            clean = x0[plan.moving]
            moved = torch.addcmul(plan.fresh, plan.a_next, clean)
            moved_residual = plan.noise_next
            if plan.residual and eps is not None and residual is not None:
                at = plan.moving
                moved_residual = residual_after(
                    residual[at], eps[at], plan.noise_next, plan.a[at], plan.b[at], plan.c_skip[at], plan.c_out[at],
                    plan.a_next, plan.b_next,
                )  # fmt: skip
        self._advance(rows, x0, moved, moved_residual, left)

    def _predict(self, plan: Plan, x: Tensor, rows: list[Row]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x0, and where a row is guided or carries a residual, eps and the residual noise."""
        seen = x if plan.extra is None else torch.cat([x, x[plan.extra]])
        prediction = self.denoiser(seen, plan.t, plan.text).float()
        conditional = prediction[: len(rows)]
        x0 = x0_from(self.prediction, conditional, x, plan.a, plan.b)
        if plan.guided is None:
            return x0, None, None
        eps = epsilon_from(self.prediction, conditional, x, plan.a, plan.b)
        residual = torch.cat([r.residual for r in rows])
        free = None
        if plan.extra is not None:
            at = plan.extra
            free = epsilon_from(self.prediction, prediction[len(rows) :], x[at], plan.a[at], plan.b[at])
            if plan.own is not None:
                residual[plan.own] = free[plan.own_from]
        unconditional = plan.delta * residual
        if plan.full is not None and free is not None:
            unconditional[plan.full] = free[plan.full_from]
        at = plan.guided
        guided = guide(eps[at], unconditional[at], plan.scale[at])
        clean = x0_from_epsilon(x[at], guided, plan.a[at], plan.b[at])
        # out of place: both may be the denoiser's own tensor
        return x0.index_copy(0, at, clean), eps.index_copy(0, at, guided), residual

    def _advance(self, rows: list[Row], x0: Tensor, moved: Tensor | None, residual: Tensor | None,
                 left: dict[int, Left]) -> None:  # fmt: skip
        k = 0
        for i, row in enumerate(rows):
            if row.leave_in == 0:
                left[id(row)] = Left(row.tag, x0[i], row.primed)
                continue
            assert moved is not None
            assert residual is not None
            row.x, row.residual = moved[k : k + 1], residual[k : k + 1]
            row.step, row.leave_in, k = row.step + 1, row.leave_in - 1, k + 1

    # ------------------------------------------------------------------------------------------- planning

    def _plan(self, rows: list[Row]) -> Plan:
        key = tuple((id(r.steering), r.step, r.leave_in == 0) for r in rows)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = make_plan(rows)
            if len(self._plans) > PLANS:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end(key)
        return plan


def make_plan(rows: Sequence[Row]) -> Plan:
    """Weights, texts and index lists for these rows, on their device."""
    device = rows[0].x.device

    def weights(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1, 1)

    def indices(values: Sequence[int]) -> Tensor | None:
        return torch.tensor(values, device=device) if values else None

    steer = [r.steering for r in rows]
    schedules = [s.schedule for s in steer]
    steps = [r.step for r in rows]
    at = list(zip(schedules, steps, strict=True))
    guided = [i for i, s in enumerate(steer) if s.guided]
    full = [i for i in guided if steer[i].guidance == "full"]
    own = [i for i in guided if steer[i].guidance == "initialize" and rows[i].step == 0]
    extra = sorted(full + own)
    moving = [i for i, r in enumerate(rows) if r.leave_in > 0]
    ahead = [(schedules[i], steps[i] + 1) for i in moving]
    texts = [s.text for s in steer] + [steer[i].negative for i in extra]
    t = [s.timesteps[k] for s, k in at] + [schedules[i].timesteps[steps[i]] for i in extra]
    noise = [steer[i].noise[steps[i] + 1] for i in moving]
    noise_next = torch.stack(noise) if noise else torch.empty(0, device=device)
    b_added = weights([s.b[k] * steer[i].add_noise for i, (s, k) in zip(moving, ahead, strict=True)])
    return Plan(
        held=tuple(steer),
        t=torch.tensor(t, dtype=torch.float32, device=device),
        text=Text.cat(texts),
        a=weights([s.a[k] for s, k in at]),
        b=weights([s.b[k] for s, k in at]),
        c_skip=weights([s.c_skip[k] for s, k in at]),
        c_out=weights([s.c_out[k] for s, k in at]),
        extra=indices(extra),
        guided=indices(guided),
        own=indices(own),
        own_from=indices([extra.index(i) for i in own]),
        full=indices(full),
        full_from=indices([extra.index(i) for i in full]),
        scale=weights([s.scale for s in steer]),
        delta=weights([s.delta for s in steer]),
        moving=indices(moving),
        a_next=weights([s.a[k] for s, k in ahead]),
        b_next=weights([s.b[k] for s, k in ahead]),
        noise_next=noise_next,
        fresh=b_added * noise_next if noise else noise_next,
        residual=any(steer[i].guided and steer[i].guidance != "full" for i in moving),
    )
