"""Denoising steps for a clip that is stepped a block of frames at a time, by the schedulers of diffusers.

A scheduler steps whatever it is given and counts how often it was called; here it is called once a block, so that it is
told each time which step it is at. Noise of its own it draws for one block after the other.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stream.clips.timeline import Sampler as Name
from stream.quiet import quiet

SCHEDULERS: dict[Name, str] = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "lcm": "LCMScheduler",
}


@dataclass(frozen=True, eq=False)
class Stepped:
    """A block after a step: `x`, what it would be without any noise, and what a multistep sampler needs next time."""

    x: Tensor
    clean: Tensor
    older: Tensor | None = None


class Sampler:
    """One of the schedulers of diffusers, over `(1, C, frames, h, w)`."""

    def __init__(self, scheduler: Any, steps: int, strength: float = 1.0) -> None:
        """`strength`: how much of the way from noise to picture is gone; the rest comes from an input."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Euler's tables are made the way that numpy 2 dislikes
            scheduler.set_timesteps(steps)
        self._first = steps - min(int(steps * strength), steps)
        self._scheduler = scheduler
        self.timesteps = scheduler.timesteps[self._first :]
        self.multistep = hasattr(scheduler, "model_outputs")

    def begin(self, noise: Tensor, clean: Tensor | None = None) -> Tensor:
        """What the first step starts from: pure noise, or an input made as noisy as the first step expects it."""
        if clean is not None and not len(self.timesteps):
            return clean
        sigma, t = self._scheduler.init_noise_sigma, self.timesteps[:1]
        x: Tensor = noise * sigma if clean is None else self._scheduler.add_noise(clean, noise, t)
        return x

    def noisiest(self, clean: Tensor, noise: Tensor) -> Tensor:
        """`clean` with as much noise as the model has ever seen: sqrt(a) clean + sqrt(1 - a) noise, a at t = 999."""
        a: Tensor = self._scheduler.alphas_cumprod[-1]
        return a.sqrt() * clean + (1 - a).sqrt() * noise

    def scaled(self, x: Tensor, k: int) -> Tensor:
        """`x` as the network takes it at step k."""
        self._at(k)
        scaled: Tensor = self._scheduler.scale_model_input(x, self.timesteps[k])
        return scaled

    def step(self, prediction: Tensor, k: int, x: Tensor, generator: torch.Generator, older: Tensor | None = None,
             held: Tensor | None = None) -> Stepped:  # fmt: skip
        """Step k. `held`: noise to add again where the sampler (LCM) would draw fresh noise."""
        self._at(k)
        scheduler, t = self._scheduler, self.timesteps[k]
        more = {} if self.multistep and scheduler.config.algorithm_type == "dpmsolver++" else {"generator": generator}
        if self.multistep:
            scheduler.model_outputs = [None] * (scheduler.config.solver_order - 1) + [older]
            scheduler.lower_order_nums = min(k, scheduler.config.solver_order)
        made = scheduler.step(prediction, t, x, **more)
        if self.multistep:
            return Stepped(made.prev_sample, scheduler.model_outputs[-1], scheduler.model_outputs[-1])
        if not hasattr(made, "denoised"):
            return Stepped(made.prev_sample, made.pred_original_sample)
        if held is None or k + 1 == len(self.timesteps):
            return Stepped(made.prev_sample, made.denoised)
        return Stepped(scheduler.add_noise(made.denoised, held, self.timesteps[k + 1 : k + 2]), made.denoised)

    def _at(self, k: int) -> None:
        if hasattr(self._scheduler, "_step_index"):
            self._scheduler._step_index = self._first + k


def scheduler_of(name: Name, config: Any, **changes: Any) -> Any:
    """The scheduler called `name` over the noise that a model was trained with (`config`), with some of it changed."""
    import diffusers

    with quiet():
        return getattr(diffusers, SCHEDULERS[name]).from_config(config, **changes)
