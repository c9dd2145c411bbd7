"""What every video family of diffusers has in common: a `Family` is a back end of facts and a `Way` for each mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stream.clips.backend import Backend, Facts, FrameRule, Mode, Plan, Rendered, Renderer, Sound, Watch
from stream.clips.families import ready
from stream.clips.families.asked import Job, ask, mode_of, source_of
from stream.clips.manifest import digest
from stream.clips.timeline import Timeline
from stream.config import Lora
from stream.errors import ClipError
from stream.frame import Image
from stream.memory import give_back, out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

SLICE = 16  # frames that are turned into pictures at a time
QUANTISE = ("torchao-int8", "quanto-int8", "gguf", "bnb-int8", "bnb-nf4")
OFFLOAD = ("group", "model", "sequential")
DTYPE = {"dtype": "float32, bfloat16 or float16 (default: the makers' on a card, else float32)"}
GGUF = DTYPE | {"gguf": "the .gguf file of the denoiser, with quantise = gguf"}


def guided_twice(job: Job) -> int:
    """Calls of a denoiser that is asked with the prompt and without it, one after the other."""
    return job.steps * (2 if job.guided else 1)


def unguided(job: Job) -> tuple[str, ...]:
    """What is said of a negative prompt that nothing listens to."""
    alone = job.negative and not job.guided
    return ("the negative prompt counts only with guidance_scale above 1",) if alone else ()


def once(job: Job) -> int:
    """Calls of a denoiser that is asked for both at once, or never without the prompt."""
    return job.steps


@dataclass(frozen=True)
class Part:
    """A component that lies in a repository of its own, where the model's folder is another pipeline's."""

    library: str
    kind: str  # its class
    source: str
    folder: str  # in it
    option: str  # names another source

    @property
    def file(self) -> str:
        return "preprocessor_config.json" if self.kind.endswith("Processor") else "config.json"

    def place(self, options: Mapping[str, Any]) -> Path | None:
        """The folder that it is in, where it is on this machine."""
        return ready.folder_of(str(options.get(self.option, self.source)), self.file, self.folder)

    def missing(self, options: Mapping[str, Any]) -> str | None:
        source = options.get(self.option, self.source)
        return None if self.place(options) else f"weights {source}: hf download {source}"


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a mode is run."""

    pipeline: str  # the class in diffusers
    source: str  # the weights that it takes by default
    arguments: Callable[[Job], dict[str, Any]]  # on top of, or instead of, those of `common`
    accepts: tuple[str, ...] = ()  # other pipelines whose weights it runs
    calls: Callable[[Job], int] = guided_twice
    steps: Callable[[Job], int] = once  # that are taken of those asked for
    parts: Mapping[str, Part] = field(default_factory=dict)
    rule: FrameRule | None = None  # where it is not the family's
    options: Callable[[Job], dict[str, Any]] = lambda _job: {}  # arguments that are the user's to choose
    prepare: Callable[[Any, Job], dict[str, Any]] = lambda _pipeline, _job: {}  # arguments that need the model
    loaded: Callable[[Any], None] = lambda _pipeline: None  # ModelError where the model cannot do this
    notes: Callable[[Job], tuple[str, ...]] = unguided  # what else is to be said before
    check: Callable[[Job], None] = lambda _job: None  # ClipError for what only this mode refuses


@dataclass(frozen=True, kw_only=True)
class Family(Backend):
    """A family of models that diffusers runs."""

    facts: Facts
    ways: Mapping[Mode, Way]
    layout: Literal["bcfhw", "bfchw", "packed"]
    spatial: int  # pixels of a latent, a side
    temporal: int  # frames of a latent, but for the first one
    gigabytes: float  # of memory, as the makers state it
    needs: tuple[str, ...] = ()  # packages beyond Livebrush's own
    dtype: str = "bfloat16"  # on a card
    vae_dtype: str | None = None  # where the VAE must be finer
    tiling: bool = True
    second: str | None = None  # the option with the LoRAs of the second denoiser

    def way(self, timeline: Timeline) -> Way:
        return self.ways[mode_of(self.facts, timeline, tuple(self.ways))]

    def ask(self, timeline: Timeline) -> Job:
        """ClipError where the family cannot do what is asked."""
        way = self.way(timeline)
        job = ask(self.facts, timeline, way.rule, tuple(self.ways))
        if timeline.memory.tiling and not self.tiling:
            raise ClipError(
                f"backend {self.facts.name} has no VAE tiling: leave it out, it decodes few frames at a time"
            )
        way.check(job)
        way.options(job)
        return job

    def missing(self, timeline: Timeline | None = None) -> str | None:
        way = next(iter(self.ways.values())) if timeline is None else self.way(timeline)
        source = way.source if timeline is None else source_of(self.facts, timeline, way.source)
        quantise = None if timeline is None else timeline.memory.quantise
        found = [ready.packages(self.needs, quantise), ready.weights(source), ready.room(source, self.gigabytes)]
        if way.parts and ready.pipeline_in(source) != way.pipeline:
            found += [p.missing({} if timeline is None else timeline.options) for p in way.parts.values()]
        return "; ".join(dict.fromkeys(x for x in found if x)) or None

    def plan(self, timeline: Timeline) -> Plan:
        job, way = self.ask(timeline), self.way(timeline)
        steps = way.steps(job)
        if steps < 1:
            raise ClipError(f"strength {timeline.strength} of {job.steps} steps is not one step: raise one of them")
        notes = [f"strength {strength(job)} takes {steps} of {job.steps} steps"] if steps != job.steps else []
        return job.plan(way.calls(job), *notes, *way.notes(job), steps=steps)

    def key(self, timeline: Timeline) -> Hashable:
        way, deciding = self.way(timeline), {"dtype", "gguf", "gguf_2", self.second}
        deciding |= {part.option for part in way.parts.values()}
        own = sorted((k, str(v)) for k, v in timeline.options.items() if k in deciding)
        source = source_of(self.facts, timeline, way.source)
        return self.facts.name, way.pipeline, source, timeline.loras, timeline.memory, tuple(own)

    def load(self, timeline: Timeline, tell: Callable[[str], Any]) -> Renderer:
        from stream.clips.families import loading, preview

        job, way = self.ask(timeline), self.way(timeline)
        source = source_of(self.facts, timeline, way.source)
        tell(f"reading {source}")
        pipeline = loading.read(way, source, job, self.dtype, self.vae_dtype)
        way.loaded(pipeline)
        loading.add_loras(pipeline, timeline.loras, self._second(job))
        colours = preview.colours_of(pipeline.vae, self.spatial)
        loading.place(pipeline, job, tell)
        return PipelineRenderer(self, pipeline, source, colours)

    def _second(self, job: Job) -> tuple[Lora, ...]:
        named = job.option(self.second, []) if self.second else []
        out = []
        for text in named:
            source, _, strength = str(text).rpartition(":")
            out.append(Lora(source, float(strength)) if source and _number(strength) else Lora(str(text)))
        return tuple(out)


class PipelineRenderer(Renderer):
    """A pipeline of diffusers in memory."""

    def __init__(self, family: Family, pipeline: Any, source: str, colours: Tensor) -> None:
        self.family, self.pipeline, self.source, self.colours = family, pipeline, source, colours
        self._hashes: dict[str, str] = {}

    def render(self, timeline: Timeline, folder: Path, watch: Watch) -> Rendered:  # noqa: ARG002 (begins again)
        job = self.family.ask(timeline)
        made: list[Sound] = []
        return Rendered(self._frames(job, watch, made), lambda: made[0] if made else None)

    def models(self) -> Mapping[str, str]:
        if not self._hashes:
            place = ready.folder_of(self.source)
            assert place is not None
            self._hashes = {str(x.relative_to(place)): _sha256(x) for x in sorted(place.glob("*/*.safetensors"))}
        return {self.family.facts.name: self.source, **self._hashes}

    def close(self) -> None:
        self.pipeline.remove_all_hooks()
        self.pipeline = None
        give_back()

    def _frames(self, job: Job, watch: Watch, made: list[Sound]) -> Iterator[Image]:
        out = self._run(job, watch)
        pictures = out.frames[0]
        if len(pictures) != job.frames:
            raise ClipError(
                f"{self.family.facts.name} rendered {len(pictures)} frames, expected {job.frames}: report it"
            )
        if (sound := sound_of(self.pipeline, out)) is not None:
            made.append(sound)
        for start in range(0, job.frames, SLICE):
            part = np.asarray(pictures[start : start + SLICE])
            watch.tell("decode", start + len(part), job.frames)
            yield (part.clip(0, 1) * 255).round().astype(np.uint8)

    def _run(self, job: Job, watch: Watch) -> Any:
        import torch

        from stream.quiet import quiet

        way = self.family.way(job.timeline)
        given = common(job) | {"generator": torch.Generator().manual_seed(job.timeline.seed)}
        given |= way.arguments(job) | way.options(job)
        try:
            with quiet(), warnings.catch_warnings(), self._watched(job, watch, way.calls(job)):
                warnings.simplefilter("ignore", DeprecationWarning)  # diffusers' schedulers and numpy
                warnings.filterwarnings("ignore", "In CPU autocast")  # Mochi asks for what the CPU has anyway
                given |= way.prepare(self.pipeline, job)
                return self.pipeline(**{k: v for k, v in given.items() if v is not LEFT_OUT})
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise ClipError(
                f"memory ran out at {job.width}x{job.height}, {job.frames} frames: ask for less, or set offload, "
                "quantise or tiling in [memory]"
            ) from None
        finally:
            self.pipeline.maybe_free_model_hooks()  # which a run that was cancelled never reached

    @contextmanager
    def _watched(self, job: Job, watch: Watch, calls: int) -> Iterator[None]:
        """Tells before each call of a denoiser, and before each of the decoder."""
        from stream.clips.families.loading import DENOISERS
        from stream.clips.families.preview import middle, picture

        done = 0
        grid = (
            (job.frames - 1) // self.family.temporal + 1, job.height // self.family.spatial,
            job.width // self.family.spatial,
        )  # fmt: skip

        def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal done
            seen = args[0] if args else kwargs["hidden_states"]
            latent = (seen, self.family.layout, len(self.colours) - 1, grid)
            watch.tell("denoise", done, calls, lambda: picture(middle(*latent), self.colours))
            done += 1

        def decoding(_module: Any, _args: tuple[Any, ...]) -> None:
            if done:  # not while the input is made into latents
                watch.tell("decode", 0, job.frames)

        denoisers = [m for n in DENOISERS if (m := getattr(self.pipeline, n, None)) is not None]
        hooks = [m.register_forward_pre_hook(before, with_kwargs=True) for m in denoisers]
        hooks.append(self.pipeline.vae.decoder.register_forward_pre_hook(decoding))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


LEFT_OUT = object()  # an argument of `common` that a pipeline does not have


def common(job: Job) -> dict[str, Any]:
    """The arguments that nearly every video pipeline takes."""
    return {
        "prompt": job.prompt, "negative_prompt": job.negative, "width": job.width, "height": job.height,
        "num_frames": job.frames, "num_inference_steps": job.steps, "guidance_scale": job.guidance,
        "output_type": "np",
    }  # fmt: skip


def sound_of(pipeline: Any, out: Any) -> Sound | None:
    """What a pipeline made to be heard."""
    heard = getattr(out, "audio", None)
    if heard is None:
        return None
    samples = np.atleast_2d(np.asarray(heard[0].float().cpu(), np.float32)).clip(-1, 1)
    return Sound(samples, int(pipeline.vocoder.config.output_sampling_rate))


def shortened(job: Job) -> int:
    """Steps that are taken of a video that is kept in part: those of diffusers' `strength`."""
    return min(int(job.steps * strength(job)), job.steps)


def strength(job: Job) -> float:
    """How much of an input video is painted anew."""
    return 0.8 if job.timeline.strength is None else job.timeline.strength


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _sha256(file: Path) -> str:
    """Of a file; the hub's cache calls its files by it."""
    name = file.resolve().name
    if len(name) == 64 and not set(name) - set("0123456789abcdef"):
        return name
    return digest(file)
