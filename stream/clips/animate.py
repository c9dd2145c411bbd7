"""A loaded model that renders clips through the chain: encode, denoise in windows, decode in slices."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import engines
from engines import Choice, Engine, engine_of
from engines.cache import default_folder
from stream import networks
from stream.choice import choose
from stream.clips import control, noise, speed
from stream.clips.backend import Rendered, Watch
from stream.clips.beginning import Begun, Flow, beginning, fresh, pictures
from stream.clips.chain import Chain
from stream.clips.control import Guide
from stream.clips.families import preview
from stream.clips.latents import Shape, Slab, State, Store
from stream.clips.manifest import digest
from stream.clips.nets import Nets
from stream.clips.recipe import Motion, Recipe, recipe
from stream.clips.sampler import Sampler, scheduler_of
from stream.clips.timeline import Keyframe, Timeline
from stream.clips.travel import texts
from stream.clips.windows import Window
from stream.config import ModelSpec
from stream.errors import ClipError
from stream.frame import Image
from stream.lora import Mix
from stream.models import codec_choice
from stream.prompt import Prompter, Text
from stream.text import TextEncoder
from stream.weights import read_pipeline

CONTROL = "control"  # the control video's file
SQUARE = 4  # cells of a latent, a side, of one colour
SLICE = 8  # pictures that are encoded or decoded together
HELD = ("warped", "constant", "repeat")  # noise that hangs together, and must when LCM adds noise again
OTHER_SEED = 1 << 32  # what samplers draw is not what the clip began with


@dataclass(frozen=True, eq=False)
class Parts:
    """A model's networks, ready to run."""

    spec: ModelSpec
    unet: Any
    scheduler: Any
    text: TextEncoder
    text_shape: tuple[int, int, int | None]
    encoder: Engine
    decoder: Engine
    factor: int
    multiple: int
    channels: int
    choice: Choice


def load(spec: ModelSpec, choice: Choice, cache: Path | None = None) -> Parts:
    """A model with its LoRAs merged. ModelError where it is not there, EngineError where it cannot run."""
    if choice.backend != "torch":
        torch.set_num_threads(1)  # as stream.models does: its idle threads would spin on the engines' cores
    pipeline = read_pipeline(spec)
    Mix(lambda: read_pipeline(spec)).merge(pipeline, spec.loras)
    vae, unet, scheduler = pipeline.vae, pipeline.unet, pipeline.scheduler
    factor = networks.factor_of(vae)
    multiple = factor * networks.halvings_of(unet)
    codec = codec_choice(pipeline, choice)
    encoder, decoder = (engine_of(part(vae, multiple), codec, cache) for part in (networks.encoder, networks.decoder))
    pooled = getattr(pipeline, "text_encoder_2", None)
    shape = (int(pipeline.tokenizer.model_max_length), int(unet.config.cross_attention_dim),
             None if pooled is None else int(pooled.config.projection_dim))  # fmt: skip
    device = encoder.device
    text = TextEncoder(pipeline, device, torch.float32)
    return Parts(spec, unet.eval(), scheduler, text, shape, encoder, decoder, factor, multiple,
                 int(vae.config.latent_channels), choice)  # fmt: skip


def chosen(spec: ModelSpec, options: Mapping[str, Any]) -> Choice:
    """What the networks run on: OpenVINO on a CPU, torch on a card, unless the timeline's options say otherwise."""
    asked = {name: str(options.get(name, "auto")) for name in ("engine", "device", "precision")}
    choice = choose(spec, **asked)
    if choice.backend in engines.TENSORRT:  # it would build one engine for each motion module, for minutes
        choice = engines.choose("torch", choice.device)
    if choice.precision == "int8":  # measured for the 2-D network alone
        choice = engines.choose(choice.backend, choice.device)
    return choice


class AnimateRenderer:
    """Renders clips with one loaded model; motion networks are built when a clip first needs them."""

    def __init__(self, parts: Parts, made: Recipe, cache: Path | None) -> None:
        self._parts, self._cache = parts, cache
        self._nets = Nets(parts.unet, parts.text_shape, dict(made.modules), parts.choice, cache)
        self._prompter = Prompter(parts.text)
        self._digest = weights_digest(parts.unet)
        self._colours: Tensor | None = None

    def models(self) -> Mapping[str, str]:
        """sha256 of what is loaded: the model's 2-D network and each motion module."""
        return {self._parts.spec.model: self._digest} | {
            name: digest(module.weights) for name, module in self._nets.modules.items()
        }

    def close(self) -> None:
        """Lets go of the motion networks."""
        self._nets = Nets(self._parts.unet, self._parts.text_shape, {}, self._parts.choice, self._cache)

    def render(self, timeline: Timeline, folder: Path, watch: Watch) -> Rendered:
        made = recipe(timeline)
        self._nets.modules = {**self._nets.modules, **made.modules}
        check_size(made.width, made.height, self._parts.multiple)
        shape = (self._parts.channels, made.height // self._parts.factor, made.width // self._parts.factor)
        key, place = self._key(made), folder / "latents"
        chain = self._chain(made, self._guide(made, place), watch)
        store = Store(place, key, timeline.frames, shape, chain.slabs)
        try:
            state = store.state() or self._begin(made, chain, store, key, shape, watch)
            began, calls = time.perf_counter(), chain.left(state)
            slab = chain.run(store, state, watch)
        except BaseException:
            store.close()
            raise
        if calls and self._cache is not None:
            speed.remember(self._cache, speed.name_of(made, self._parts.choice),
                           (time.perf_counter() - began) / calls)  # fmt: skip
        return Rendered(self._decoded(store, slab, timeline.frames, watch))

    def _chain(self, made: Recipe, guide: Guide | None, watch: Watch) -> Chain[Motion]:
        scheduler = scheduler_of(made.sampler, self._parts.scheduler.config, **made.scheduling)
        negative = self._prompter(made.timeline.negative_prompt, made.width, made.height) if made.guided else None
        return Chain(
            made.layout, self._networks(made, guide, watch), Sampler(scheduler, made.steps, made.strength),
            lambda window: texts(made.timeline, window, lambda p: self._prompter(p, made.width, made.height)),
            negative, made.guidance, made.timeline.free_init + 1, made.noise in HELD,
            self._preview,
        )  # fmt: skip

    def _networks(self, made: Recipe, guide: Guide | None, watch: Watch) -> Mapping[Motion, Any]:
        """The networks that the clip runs, built where they are not yet there."""
        self._nets.keep(made.motions)
        if guide is not None:
            return {motion: self._nets.guided(motion, guide) for motion in dict.fromkeys(made.motions)}
        size = (made.height // self._parts.factor, made.width // self._parts.factor)
        lengths = {len(w) for w in made.layout.windows(0)}
        used = dict.fromkeys(made.motions)
        return {
            m: _Lengths({n: self._nets(m, n, size, lambda: watch.tell("load", 0, 1)) for n in lengths}) for m in used
        }

    def _guide(self, made: Recipe, place: Path) -> Guide | None:
        """What the clip follows besides its prompts."""
        asked = made.timeline.control
        if asked is None:
            return None
        network = control.load(asked.model, self._parts.unet, *self._nets.in_torch)
        if asked.input is not None:
            shape = (3, made.height, made.width)
            return control.Follow(network, lambda: Slab(place / f"{CONTROL}.bin", shape, np.uint8), asked.scale)
        shown = {k.frame: (self._keyframe(k, network, made), k.strength) for k in control.keyframes_of(made.timeline)}
        return control.Meet(network, shown, asked.scale)

    def _keyframe(self, keyframe: Keyframe, network: Any, made: Recipe) -> Tensor:
        """A picture as a SparseCtrl takes it: latents, or pixels 0..1."""
        image = next(pictures(keyframe.image, 1, (made.width, made.height), made.camera))
        if network.use_simplified_condition_embedding:
            return self._encoded([image])[0, :, 0]
        return torch.from_numpy(image).permute(2, 0, 1).float() / 255

    def _begin(self, made: Recipe, chain: Chain[Motion], store: Store, key: str, shape: Shape, watch: Watch) -> State:
        generator = torch.Generator().manual_seed(made.timeline.seed)
        begun = self._beginning(made, chain.layout.blocks, shape, generator)
        if made.timeline.control is not None and made.timeline.control.input is not None:
            begun = _followed(begun, chain.layout.blocks, made, store.path(CONTROL))
        with torch.inference_mode():
            return chain.begin(store, key, generator, _told(begun, made.timeline.frames, watch))

    def _beginning(self, made: Recipe, blocks: Sequence[Window], shape: Shape,
                   generator: torch.Generator) -> Iterator[Begun]:  # fmt: skip
        asked = made.timeline
        flow = Flow((shape[2], shape[1])) if made.flows else None
        if made.noise == "fresh":
            drawn = fresh(generator, shape, blocks, rows=asked.input is not None)
        else:
            whole = (1, shape[0], asked.frames, *shape[1:])
            loop = asked.loop and flow is None  # a video's flow is known in its order alone
            field = made.camera if flow is None else flow
            drawn = noise.slices(
                made.noise, whole, asked.seed, asked.window, asked.overlap, field, loop, flow is not None
            )  # fmt: skip
            generator.manual_seed(asked.seed + OTHER_SEED)
        if asked.input is None:
            return ((block, None) for block in drawn)
        seen = pictures(asked.input, asked.frames, (made.width, made.height), made.camera, made.fps)
        return beginning(blocks, drawn, seen, self._encoded, flow)

    def _encoded(self, images: Sequence[Image]) -> Tensor:
        """Pictures to latents `(1, C, frames, h, w)`."""
        slices = (images[i : i + SLICE] for i in range(0, len(images), SLICE))
        made = [self._parts.encoder(torch.from_numpy(np.stack(part))).cpu() for part in slices]
        return torch.cat(made).transpose(0, 1)[None]

    def _decoded(self, store: Store, slab: Slab, frames: int, watch: Watch) -> Iterator[Image]:
        with store:
            for start in range(0, frames, SLICE):
                watch.tell("decode", start, frames)
                latents = slab.read(range(start, min(start + SLICE, frames)))[0].transpose(0, 1).contiguous()
                yield self._parts.decoder(latents).cpu().numpy()

    def _preview(self, latents: Tensor) -> Image:
        """One frame's latents in colours: a linear map, fitted once to the autoencoder's own."""
        if self._colours is None:
            self._colours = colours(self._parts)
        return preview.picture(latents, self._colours)

    def _key(self, made: Recipe) -> str:
        """What the latents in a folder belong to: the timeline, but for how it is written, and the weights."""
        asked = made.timeline.model_dump(mode="json", exclude={"output"})
        facts = [asked, dict(self.models()), str(self._parts.choice), torch.__version__]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class _Lengths:
    """One motion network for windows of several lengths: a batched schedule's last one may be shorter."""

    by_length: Mapping[int, Any]

    def __call__(self, x: Tensor, t: Tensor, text: Text, frames: Window) -> Tensor:
        out: Tensor = self.by_length[len(frames)](x, t, text, frames)
        return out


def _followed(begun: Iterator[Begun], blocks: Sequence[Window], made: Recipe, path: Path) -> Iterator[Begun]:
    """Puts the control video on the disk beside what a clip begins with."""
    assert made.timeline.control is not None
    assert made.timeline.control.input is not None
    size = (made.width, made.height)
    seen = pictures(made.timeline.control.input, made.timeline.frames, size, made.camera, made.fps)
    with closing(Slab(path, (3, made.height, made.width), np.uint8)) as slab:
        for block, each in zip(blocks, begun, strict=True):
            images = np.stack(list(islice(seen, len(block))))
            slab.write(block, torch.from_numpy(images).permute(3, 0, 1, 2)[None])
            yield each
        slab.sync()


def _told(begun: Iterator[Begun], frames: int, watch: Watch) -> Iterator[Begun]:
    done = 0
    for made in begun:
        watch.tell("encode", done, frames)
        done += made[0].shape[2]
        yield made


def check_size(width: int, height: int, multiple: int) -> None:
    """ClipError unless the model can paint pictures of this size."""
    for name, side in (("width", width), ("height", height)):
        if side % multiple:
            down = max(side // multiple, 1) * multiple
            raise ClipError(f"{name} {side} is not a multiple of {multiple}: use {down} or {down + multiple}", (name,))


def colours(parts: Parts) -> Tensor:
    """Latents to colours, fitted over squares of colour that the autoencoder encodes."""
    cells = math.lcm(SQUARE, parts.multiple // parts.factor)
    made = np.random.default_rng(0).integers(0, 256, (cells, cells, 3), np.uint8)
    picture = made.repeat(SQUARE * parts.factor, 0).repeat(SQUARE * parts.factor, 1)
    latents = parts.encoder(torch.from_numpy(picture[None])).float().cpu()
    means = torch.nn.functional.avg_pool2d(latents, SQUARE)[0].flatten(1).T
    return preview.fit(means, torch.from_numpy(made).float().flatten(0, 1) / 127.5 - 1)


def weights_digest(module: torch.nn.Module) -> str:
    """sha256 over a network's weights, by name."""
    found = hashlib.sha256()
    for name, value in module.state_dict().items():
        found.update(name.encode())
        found.update(memoryview(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
    return found.hexdigest()


def renderer(timeline: Timeline, tell: Callable[[str], Any]) -> AnimateRenderer:
    """Loads what a timeline needs."""
    made, cache = recipe(timeline), default_folder()
    choice = chosen(made.spec, timeline.options)
    tell(f"loading {made.spec.name} on {choice}")
    return AnimateRenderer(load(made.spec, choice, cache), made, cache)
