"""The chain: one long clip out of short windows and several motion modules, denoised step by step.

At every step each window is predicted by the modules that count in it, `sum_m alpha_m(f) eps_m`; windows are fused
frame by frame, the guided and the unguided prediction apart; and blocks of frames move one step of the sampler as soon
as their last window is in. Memory holds one window and the frames that wait for another; all else lies on the disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.fft import fftfreq, fftn, ifftn

from stream.clips.backend import Watch
from stream.clips.beginning import Begun
from stream.clips.fuse import Weights, weights
from stream.clips.latents import Slab, State, Store
from stream.clips.sampler import Sampler
from stream.clips.timeline import Fuse, Schedule
from stream.clips.windows import Window, windows
from stream.frame import Image
from stream.prompt import Text

M = TypeVar("M")  # what a motion module is known by
STOP = 0.25  # FreeInit's, of space and time: frequencies below it stay
ORDER = 4  # of its Butterworth filter


class Net(Protocol):
    """A motion network: clips `(B, C, F, h, w)`, a timestep, text of `B F` rows; `frames` are their places."""

    def __call__(self, x: Tensor, t: Tensor, text: Text, frames: Window) -> Tensor: ...


@dataclass(frozen=True)
class Layout(Generic[M]):
    """How a clip is cut into windows, and which motion modules count at each frame."""

    frames: int
    schedule: Schedule
    length: int
    overlap: int
    fuse: Fuse
    shares: Callable[[int], Mapping[M, float]]

    def windows(self, step: int) -> list[Window]:
        return windows(self.schedule, self.frames, self.length, self.overlap, step)

    def weights(self, laid: Sequence[Window]) -> list[Weights]:
        return weights(self.fuse, laid, self.frames, closed=self.schedule == "looped")

    def parts(self, window: Window) -> dict[M, list[float]]:
        """The modules that count in a window, each with its share of every frame."""
        found = [self.shares(frame) for frame in window]
        modules = dict.fromkeys(m for shares in found for m, share in shares.items() if share)
        return {m: [shares.get(m, 0.0) for shares in found] for m in modules}

    def calls(self, step: int) -> int:
        """How often a network runs in a step."""
        return sum(len(self.parts(window)) for window in self.windows(step))

    @cached_property
    def blocks(self) -> list[Window]:
        """The frames that are stepped together, and share what the sampler draws."""
        return windows("batched", self.frames, self.length, 0)


@dataclass(frozen=True, eq=False)
class Chain(Generic[M]):
    """What is needed to denoise a clip. `guidance` is each frame's scale; at 1 or less there is none at all where
    `negative` is None. `rounds` is 1, and one more for every FreeInit iteration."""

    layout: Layout[M]
    nets: Mapping[M, Net]
    sampler: Sampler
    text: Callable[[Window], Text]
    negative: Text | None
    guidance: Callable[[int], float]
    rounds: int = 1
    held: bool = False  # LCM and FreeInit add the clip's own noise again, so that it goes on moving with the clip
    preview: Callable[[Tensor], Image] | None = None

    @property
    def slabs(self) -> tuple[str, ...]:
        """What the store keeps of every step."""
        return ("latents", "older") if self.sampler.multistep else ("latents",)

    @property
    def moves(self) -> int:
        """Steps of all rounds, and what lies between two rounds."""
        return self.rounds * self._span - 1

    @property
    def calls(self) -> int:
        """How often networks will run."""
        return self._calls(self.moves)

    def left(self, state: State) -> int:
        """How often they will still run."""
        return self.calls - self._calls(state.done)

    def begin(self, store: Store, key: str, generator: torch.Generator, begun: Iterable[Begun]) -> State:
        """Puts the noise, and the input where there is one, on the disk block by block: `(1, C, block, h, w)` each."""
        store.clear()
        latents, kept = store.slab("latents", 0), store.slab("noise")
        spare = store.slab("older", 0) if self.sampler.multistep else None
        for block, (noise, clean) in zip(self.layout.blocks, begun, strict=True):
            kept.write(block, noise)
            latents.write(block, self.sampler.begin(noise, clean))
            if spare is not None:
                spare.write(block, torch.zeros_like(noise))
        state = State(key, 0, _hex(generator), torch.get_num_threads())
        store.commit(state)
        return state

    def run(self, store: Store, state: State, watch: Watch) -> Slab:
        """The finished latents. Goes on from `state`, with the threads that it began with."""
        generator = torch.Generator()
        generator.set_state(torch.frombuffer(bytearray.fromhex(state.generator), dtype=torch.uint8))
        tally = _Tally(watch, self._calls(state.done), self.calls)
        with threads(state.threads), torch.inference_mode():
            while state.done < self.moves:
                if state.done % self._span == len(self.sampler.timesteps):
                    self._again(store, state.done, generator)
                else:
                    self._step(store, state.done, generator, tally)
                state = replace(state, done=state.done + 1, generator=_hex(generator))
                store.commit(state)
        return store.slab("latents", state.done)

    @property
    def _span(self) -> int:
        """Moves from the beginning of one round to that of the next."""
        return len(self.sampler.timesteps) + 1

    def _calls(self, moves: int) -> int:
        return sum(self.layout.calls(n % self._span) for n in range(moves) if (n + 1) % self._span)

    def _step(self, store: Store, done: int, generator: torch.Generator, tally: _Tally) -> None:
        k = done % self._span
        now, after = ({name: store.slab(name, n) for name in self.slabs} for n in (done, done + 1))
        noise = store.slab("noise") if self.held else None
        laid = self.layout.windows(k)
        fused = _Fused(laid, self.layout.blocks)
        for window, weight in zip(laid, self.layout.weights(laid), strict=True):
            fused.add(window, weight, self._predicted(now["latents"].read(window), window, k, tally))
            for block in fused.whole():
                older = now["older"].read(block) if self.sampler.multistep else None
                again = None if noise is None else noise.read(block)
                eps, x = self._guided(fused.take(block), block), now["latents"].read(block)
                made = self.sampler.step(eps, k, x, generator, older, again)
                after["latents"].write(block, made.x)
                if made.older is not None:
                    after["older"].write(block, made.older)
                if self.preview is not None:
                    tally.preview = partial(self.preview, made.clean[0, :, len(block) // 2])

    def _predicted(self, x: Tensor, window: Window, k: int, tally: _Tally) -> Tensor:
        """One window's prediction by all modules that count in it, `(1 or 2, C, F, h, w)`: unguided first."""
        x, text = self.sampler.scaled(x, k), self.text(window)
        if self.negative is not None:
            x, text = torch.cat([x, x]), Text.cat([self.negative] * len(window) + [text])
        parts, total = self.layout.parts(window), None
        for module, share in parts.items():
            tally.tell()
            eps = self.nets[module](x, self.sampler.timesteps[k], text, window)
            if len(parts) > 1:
                eps = eps * torch.tensor(share).view(1, 1, -1, 1, 1)
            total = eps if total is None else total + eps
        assert total is not None
        return total

    def _guided(self, eps: Tensor, block: Window) -> Tensor:
        """Classifier-free guidance (arXiv 2207.12598), at each frame's own scale."""
        if self.negative is None:
            return eps
        without, with_text = eps.chunk(2)
        scale = torch.tensor([self.guidance(f) for f in block]).view(1, 1, -1, 1, 1)
        return without + scale * (with_text - without)

    def _again(self, store: Store, done: int, generator: torch.Generator) -> None:
        """FreeInit (arXiv 2312.07537): the finished clip made noise again, what is slow and coarse in it kept, the rest
        fresh, or the clip's own where that is held. Filtered in windows, which are fused as predictions are."""
        latents, noise, after = store.slab("latents", done), store.slab("noise"), store.slab("latents", done + 1)
        fresh = noise if self.held else store.slab("fresh", done)
        for block in self.layout.blocks if not self.held else ():
            fresh.write(block, torch.randn(noise.read(block).shape, generator=generator))
        laid = self.layout.windows(0)
        fused = _Fused(laid, self.layout.blocks)
        for window, weight in zip(laid, self.layout.weights(laid), strict=True):
            z = self.sampler.noisiest(latents.read(window), noise.read(window))
            fused.add(window, weight, low_pass(z - fresh.read(window)))
            for block in fused.whole():
                after.write(block, self.sampler.begin(fresh.read(block) + fused.take(block)))


class _Tally:
    """Tells a watch of every call before it is made."""

    def __init__(self, watch: Watch, done: int, total: int) -> None:
        self._watch, self._done, self._total = watch, done, total
        self.preview: Callable[[], Image] | None = None

    def tell(self) -> None:
        self._watch.tell("denoise", self._done, self._total, self.preview)
        self._done += 1


class _Fused:
    """The weighted sums of frames that wait for a window, and the blocks whose last window is in."""

    def __init__(self, laid: Sequence[Window], blocks: Sequence[Window]) -> None:
        self._sums: dict[int, Tensor] = {}
        self._missing = Counter(chain.from_iterable(laid))
        self._waiting = list(blocks)

    def add(self, window: Window, weight: Weights, values: Tensor) -> None:
        for place, (frame, share) in enumerate(zip(window, weight.tolist(), strict=True)):
            part = values[:, :, place] * share
            self._sums[frame] = self._sums[frame] + part if frame in self._sums else part
            self._missing[frame] -= 1

    def whole(self) -> list[Window]:
        """The blocks that are whole now, each once."""
        found = [block for block in self._waiting if not any(self._missing[f] for f in block)]
        self._waiting = [block for block in self._waiting if block not in found]
        return found

    def take(self, block: Window) -> Tensor:
        return torch.stack([self._sums.pop(f) for f in block], 2)


def low_pass(x: Tensor) -> Tensor:
    """What is slow and coarse in `(..., F, h, w)`: a Butterworth filter over time and space."""
    away = [(fftfreq(n) * 2 / STOP) ** 2 for n in x.shape[-3:]]
    distance = away[0].view(-1, 1, 1) + away[1].view(-1, 1) + away[2]
    spectrum = fftn(x, dim=(-3, -2, -1)) / (1 + distance**ORDER)
    kept: Tensor = ifftn(spectrum, dim=(-3, -2, -1)).real
    return kept


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch computes with `count` threads: sums of floats depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _hex(generator: torch.Generator) -> str:
    return generator.get_state().numpy().tobytes().hex()
