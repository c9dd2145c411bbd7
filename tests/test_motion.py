"""The built-in motion modules, through the chain: they move as they are named, and steadier than the model alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from stream.clips import travel
from stream.clips.modules import built_in, find
from stream.clips.timeline import Camera, Segment, Timeline
from stream.config import spec
from stream.weights import read_pipeline
from tools.builtin import motion, moving
from tools.builtin.moving import Clip, Studio
from tools.builtin.pictures import photo, square
from tools.builtin.training import NAMES

SIDE, FRAMES, SEED = 128, 12, 77
Render = Callable[..., Clip]


@pytest.fixture(scope="module")
def render() -> Render:
    studio, seen = Studio(), {}

    def rendered(name: str, prompt: str = "watercolor painting", effect: float = 1.0, **more: object) -> Clip:
        key = (name, prompt, effect, *sorted(more.items()))
        if key not in seen:
            segments = [Segment(motion=part, effect=effect) for part in name.split()]
            wanted = {"frames": FRAMES, "width": SIDE, "height": SIDE, "seed": SEED, "options": {"engine": "torch"}}
            fewer = {} if "input" in more else {"steps": 4}
            seen[key] = studio(**wanted | fewer | {"prompt": prompt, "segments": segments} | more)
        return seen[key]

    return rendered


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("still") / "cat.png"
    Image.fromarray(square(photo("chelsea"), 2 * SIDE)).save(file)
    return str(file)


def camera(name: str) -> Camera:
    found = find(name).facts.camera
    assert found is not None
    return found


# ------------------------------------------------------------------------------------------------- measures


def carried(by: Camera, frames: int = 6) -> Clip:
    """A photo under a camera: what a perfect clip would be."""
    image, matrix = square(photo("chelsea"), SIDE), moving.camera_matrix(by, SIDE, SIDE)
    ways = [np.linalg.matrix_power(matrix, n)[:2] for n in range(frames)]
    return np.stack([cv2.warpAffine(image, w, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101) for w in ways])


def test_the_measures_know_motion_when_they_see_it() -> None:
    pan, zoom = carried(Camera(x=0.012)), carried(Camera(zoom=1.03))
    assert moving.coherence(moving.flow(pan)) > 0.95
    assert moving.outwards(moving.flow(zoom)) > 0.9 > 0.2 > abs(moving.outwards(moving.flow(pan)))
    assert moving.outwards(moving.flow(zoom[::-1])) < -0.9
    assert moving.compensated(pan, Camera(x=0.012)) < 2 < moving.compensated(pan, Camera(x=-0.012))
    assert moving.warp_error(pan, moving.back(pan)) < 2
    noise = np.random.default_rng(0).integers(0, 255, pan.shape).astype(np.uint8)
    assert moving.coherence(moving.flow(noise)) < 0.7
    assert moving.warp_error(noise, moving.back(pan)) > 50


# ------------------------------------------------------------------------------------------------- modules


def test_three_modules_ship_within_six_megabytes() -> None:
    assert {"pan", "zoom", "drift"} <= set(built_in())
    folder = find("pan").place.parent
    assert sum(f.stat().st_size for f in folder.rglob("*")) < 6e6
    for name in built_in():
        facts = find(name).facts
        assert (facts.version, facts.licence, facts.guidance_scale) == ("builtin", "Apache-2.0", 1)
        assert facts.camera not in (None, Camera())
        assert facts.about


@pytest.mark.parametrize("seeded", [False, True])
def test_pan_moves_one_way(render: Render, still: str, seeded: bool) -> None:
    moves = moving.flow(render("pan", **{"input": still} if seeded else {}))
    assert moving.coherence(moves) >= 0.9
    assert moves[..., 0].mean() == pytest.approx(camera("pan").x * SIDE, rel=0.3)


@pytest.mark.parametrize("seeded", [False, True])
def test_zoom_moves_outwards_from_the_middle(render: Render, still: str, seeded: bool) -> None:
    moves = moving.flow(render("zoom", **{"input": still} if seeded else {}))
    assert moving.outwards(moves) >= 0.75
    assert moving.coherence(moves) < 0.2
    ring = [np.linalg.norm(moves[:, a:b, a:b], axis=-1).mean() for a, b in ((52, 76), (16, 112))]
    assert ring[1] > 1.5 * ring[0]  # faster the farther out


def test_a_chain_turns_over_within_the_cross_fade(render: Render) -> None:
    timeline = Timeline(frames=24, segments=(Segment(motion="pan"), Segment(motion="zoom"))).resolved()
    fades = [f for f in range(24) if len(travel.alphas(timeline, f)) > 1]
    moves = moving.flow(render("pan zoom", frames=24))  # its n-th field leads to frame n + 1
    before, after = moves[: fades[0] - 1], moves[fades[-1] :]
    assert moving.coherence(before) >= 0.9
    assert moving.outwards(before) < 0.2
    assert moving.outwards(after) > 0.7
    assert moving.coherence(after) < 0.25


STEADIED = [("pan", "watercolor painting"), ("zoom", "watercolor painting"), ("drift", "neon lights")]


@pytest.mark.parametrize(("name", "prompt"), STEADIED)
def test_a_module_makes_clips_from_noise_steadier(render: Render, name: str, prompt: str) -> None:
    """Same noise, same camera, same everything."""
    alone, steadied = (render(name, prompt, effect) for effect in (0.0, 1.0))
    assert moving.compensated(steadied, camera(name)) < 0.95 * moving.compensated(alone, camera(name))
    assert steadied.std() > 0.6 * alone.std()  # not by painting nothing


@pytest.mark.parametrize("prompt", ["watercolor painting", "neon lights"])
@pytest.mark.parametrize(("fast", "held"), [(False, 1.03), (True, 0.75)])  # at rest the noise is held too, another one
def test_a_video_flickers_less_than_frame_by_frame(
    render: Render, tmp_path: Path, prompt: str, fast: bool, held: float
) -> None:
    face = square(photo("astronaut"), 2 * SIDE)[:SIDE]
    shown = moving.handheld(face[:, 64:192], FRAMES, size=SIDE)
    if fast:
        shown = np.stack([face[:, 6 * k : 6 * k + SIDE] for k in range(FRAMES)])
    video = str(moving.as_folder(shown, tmp_path / "video"))
    moves = moving.back(shown)
    clip = render("drift", prompt, input=video)
    for noise, share in (("constant", held), ("fresh", 0.6)):  # a live stream's is constant
        single = render("drift", prompt, 0.0, input=video, noise=noise)
        assert moving.warp_error(clip, moves) < share * moving.warp_error(single, moves), noise
    assert clip.std() > 0.9 * single.std()


# ------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", ["pan", "zoom", "drift"])
def test_training_knows_where_everything_went(kind: str) -> None:
    way = motion.Way.of(kind, 6, np.random.default_rng(3))
    picture = cv2.GaussianBlur(np.random.default_rng(4).normal(0, 1, (96, 96)).astype(np.float32), None, 3)
    inset = np.eye(3)
    inset[:2, 2] = -32
    ways = [(m @ inset)[:2] for m in way.matrices(motion.SIDE)]
    seen = [cv2.warpAffine(picture, m, (motion.SIDE, motion.SIDE), flags=cv2.INTER_LINEAR) for m in ways]
    frames = torch.from_numpy(np.stack(seen))[:, None]
    for step in (1, -1, 3):
        brought, known = way.brought(frames, step)
        assert known.mean() > 0.2
        assert ((brought - frames) * known).square().sum() < 0.1 * (frames * known).square().sum()
        assert known.flatten(1).amax(1).sum() == 6 - abs(step)
    assert way.unsteadiness(frames) < 0.1 * way.unsteadiness(frames[torch.randperm(6)] * torch.randn(6, 1, 1, 1))


def test_training_resumes_and_leaves_the_model_alone(tmp_path: Path) -> None:
    pipeline = read_pipeline(spec("builtin"))
    table = np.random.default_rng(0).integers(0, 255, (2, len(NAMES), 256, 256, 3)).astype(np.uint8)
    recipe = motion.MotionRecipe(steady_steps=2, kind_steps=1)
    made = motion.train_modules(tmp_path, pipeline, table, recipe)
    fresh = read_pipeline(spec("builtin")).unet.state_dict()
    assert all(torch.equal(v, fresh[k]) for k, v in pipeline.unet.state_dict().items())
    learnt = [m.down_blocks[0].motion_modules[0].proj_out.weight for m in made.values()]
    assert all(w.abs().max() > 0 for w in learnt)
    again = motion.train_modules(tmp_path, pipeline, np.zeros(0), recipe)  # all is done: nothing is looked at
    assert all(torch.equal(w, again[k].down_blocks[0].motion_modules[0].proj_out.weight)
               for k, w in zip(made, learnt, strict=True))  # fmt: skip
    motion.save_modules(tmp_path / "out", made)
    found = find(str(tmp_path / "out" / "zoom"))
    assert (found.facts.camera, found.frames) == (Camera(zoom=1.02), 32)
    assert found.load().dtype == torch.float32
