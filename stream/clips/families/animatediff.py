"""AnimateDiff: Stable Diffusion with motion modules, chained over clips of any length. The built-in model's family."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream.clips.backend import Backend, Facts, FrameRule, Plan, Renderer
from stream.clips.families.asked import check_takes
from stream.clips.timeline import Timeline
from stream.config import BUILTIN
from stream.errors import ClipError, LivebrushError

if TYPE_CHECKING:
    from stream.clips.recipe import Recipe

OPTIONS = {
    "engine": "What runs the networks: auto, torch or openvino.",
    "device": "cpu, cuda, cuda:1, ...",
    "precision": "f32, bf16 or f16.",
}
PROCESS_MB, COPIES, FRAME_MB = 800, 6, 20  # measured on a CPU; the last for one frame of a window at 256x256
FACTS = Facts(
    name="animatediff",
    title="AnimateDiff v1, v2, v3, SDXL, LCM, Lightning; and the built-in model",
    modes=("t2v", "i2v", "v2v", "keyframes", "control"),
    rule=FrameRule(),
    multiple=8,
    size=(256, 256),
    fps=8,
    steps=8,
    guidance_scale=1.0,
    memory="about 1.5 GB built in, measured; others as their model",
    licence="the model's and the motion module's own; built in: Apache-2.0",
    source=BUILTIN,
    lora=True,
    resumes=True,
    options=OPTIONS,
)


class AnimateDiff(Backend):
    """See `stream.clips.chain`."""

    facts = FACTS

    def missing(self, timeline: Timeline | None = None) -> str | None:
        if timeline is None:
            return None
        try:
            _recipe(timeline)
        except LivebrushError as error:
            return str(error)
        return None

    def plan(self, timeline: Timeline) -> Plan:
        from engines.cache import default_folder
        from stream.clips import speed
        from stream.clips.animate import chosen

        made = _recipe(timeline)
        choice = chosen(made.spec, timeline.options)
        rounds = timeline.free_init + 1
        calls = rounds * sum(made.layout.calls(k) for k in range(made.taken))
        each = speed.known(default_folder()).get(speed.name_of(made, choice))
        return Plan(
            frames=timeline.frames, width=made.width, height=made.height, fps=str(made.fps),
            windows=len(made.layout.windows(0)), steps=made.taken * rounds, unet_calls=calls,
            memory_mb=_memory_mb(made), seconds=None if each is None else round(each * calls, 1), notes=_notes(made),
        )  # fmt: skip

    def key(self, timeline: Timeline) -> Hashable:
        options = json.dumps(timeline.options, sort_keys=True, default=str)
        return timeline.model, timeline.loras, options

    def load(self, timeline: Timeline, tell: Callable[[str], Any]) -> Renderer:
        from stream.clips.animate import renderer

        _check_options(timeline)
        return renderer(timeline, tell)


def _recipe(timeline: Timeline) -> Recipe:
    from stream.clips.recipe import recipe

    _check_options(timeline)
    made = recipe(timeline)
    _check_size(made)
    return made


def _check_options(timeline: Timeline) -> None:
    check_takes(FACTS, timeline)
    if timeline.memory.tiling:
        raise ClipError("backend animatediff has no tiling: leave it out, it decodes few frames at a time",
                        ("memory", "tiling"))  # fmt: skip
    if timeline.strength is not None and timeline.input is None:
        raise ClipError("strength says how far an input may be left, and there is none: say input", ("strength",))


def _folder(made: Recipe) -> Path | None:
    """The folder with the model's files, where it is one on this machine."""
    from stream.weights import locate

    place = locate(made.spec.model, "model")
    return place if isinstance(place, Path) and place.is_dir() else None


def _check_size(made: Recipe) -> None:
    """As far as it is known without loading: from the configurations in the model's folder."""
    from stream.clips.animate import check_size

    folder = _folder(made)
    if folder is not None and made.spec.vae is None:
        check_size(made.width, made.height, _shrinks(folder / "unet") * _shrinks(folder / "vae"))


def _shrinks(folder: Path) -> int:
    """How many pixels a side become one inside a network; 1 where its configuration cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return 1
    widths = config.get("encoder_block_out_channels") or config.get("block_out_channels") or [1]
    return int(2 ** (len(widths) - 1))


def _memory_mb(made: Recipe) -> float | None:
    """What weights and one window take, as measured with the built-in model; None where the weights are elsewhere."""
    folder = _folder(made)
    if folder is None:
        return None
    files = [*folder.glob("*/*.safetensors"), *(m.weights for m in made.modules.values())]
    weights_mb = sum(f.stat().st_size for f in files) / 1e6
    window = min(made.timeline.window, made.timeline.frames) * len(set(made.motions))
    return round(PROCESS_MB + COPIES * weights_mb + FRAME_MB * window * made.width * made.height / 256**2)


def _notes(made: Recipe) -> tuple[str, ...]:
    asked, notes = made.timeline, []
    if any(s.motion is None for s in asked.segments):
        notes.append("a segment without a motion module: its frames are painted each for itself")
    if asked.loop and asked.schedule != "looped":
        notes.append("a loop: windows run round the clip, and begin elsewhere at every step")
    if asked.input is not None:
        notes.append(f"an input at strength {made.strength:g}: {made.taken} of {made.steps} steps are taken")
    if made.noise == "warped" and made.sampler == "euler_a":
        notes.append("euler_a adds fresh noise at every step: with warped noise ddim, euler and lcm are steadier")
    return tuple(notes)


BACKEND = AnimateDiff()
