"""Engines of TensorRT-RTX, built for real without a card; their keys, and what happens when something goes wrong."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import typer
from test_engines import small
from typer.testing import CliRunner

import livebrush
from engines import EngineError, Network, preflight
from engines.build import PLAN, SHELF, Profiles, Wish, build, facts_of, ready
from engines.builder import Progress
from engines.cache import LOCK, MANIFEST, key_of, wrong
from engines.export import export
from stream import shelf

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx, which there is for Linux and Windows")
CARDS = (89, 120)
ROOT = Path(livebrush.__file__).parent
SPANS = {"rows": (1, 1, 4), "h": (8, 16, 32), "w": (8, 16, 32)}


def wish(**more: Any) -> Wish:
    return Wish(
        **{"backend": "tensorrt-rtx", "precision": "f16", "profiles": Profiles(SPANS), "compute": CARDS, **more}
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with the small network's engine."""
    folder = tmp_path_factory.mktemp("cache")
    ready(small(), wish(), folder, label="small")
    return folder


@pytest.fixture
def cache(kept: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    import shutil

    return Path(shutil.copytree(kept, tmp_path / "cache"))


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """No builder is started."""
    monkeypatch.setattr("engines.build.build", lambda *_: pytest.fail("built again"))


def engines(cache: Path) -> list[Path]:
    """What lies on the shelf, but for the lock."""
    return sorted(p for p in (cache / SHELF).iterdir() if p.name != LOCK)


# ------------------------------------------------------------------------------------------- built for real


def middle() -> Network:
    """A UNet of SD's shape, a fifth as wide."""
    from diffusers import UNet2DConditionModel

    from stream.networks import denoiser

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(64, 128, 256, 256), cross_attention_dim=256, attention_head_dim=8
    )
    return denoiser(unet, 77, None)


def test_the_builtin_model_builds_for_both_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEBRUSH_CACHE", str(tmp_path))
    asked = ["engines", "build", "builtin", "--sm", "89", "--sm", "120"]
    result = CliRunner().invoke(livebrush.app, asked)
    assert result.exit_code == 0, result.output
    for name in ("encoder", "denoiser", "decoder"):
        assert f"{name}: built in" in result.output
    again = CliRunner().invoke(livebrush.app, asked)
    assert again.output.count("there already") == 3, again.output
    listed = CliRunner().invoke(livebrush.app, ["engines", "list"]).output
    assert listed.count("64-256 cells") == 2
    assert listed.count("8.9, 12.0") == listed.count("builtin") == 3, listed


def test_a_middling_unet_of_sds_shape_builds_for_both_cards(tmp_path: Path) -> None:
    network, told = middle(), []
    spans = {"rows": (1, 1, 4), "h": (32, 64, 96), "w": (32, 64, 96)}
    file = ready(network, wish(profiles=Profiles(spans)), tmp_path, tell=lambda phase, far: told.append(far))
    weights = 2 * sum(w.numel() for w in network.module.parameters())
    assert file.stat().st_size > weights > 40_000_000
    assert told == sorted(told)
    assert told[-1] > 0.8
    made = json.loads((file.parent / MANIFEST).read_text())["made"]
    assert made["build_s"] > 0
    assert weights < made["peak_bytes"] < preflight.memory_needed(weights)
    assert made["bytes"] + made["weight_bytes"] < preflight.disk_needed(weights)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_other_precisions_build(tmp_path: Path, precision: Any) -> None:
    exported = export(small(), tmp_path, precision)
    built = build(exported, tmp_path, wish(precision=precision))
    assert built.file.read_bytes()[:4] == b"vtrt"
    assert built.version == preflight.library_version("tensorrt-rtx")


# ------------------------------------------------------------------------------------------------- the key


def test_what_was_built_is_not_built_again_nor_exported(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.export.export", lambda *_: pytest.fail("exported again"))
    file = ready(small(), wish(), kept, exact=True)
    assert file.read_bytes()[:4] == b"vtrt"
    assert wrong(file.parent) is None


OTHERS: dict[str, dict[str, Any]] = {
    "precision": {"precision": "bf16"},
    "rows": {"profiles": Profiles({**SPANS, "rows": (1, 1, 8)})},
    "sizes": {"profiles": Profiles({**SPANS, "h": (8, 24, 32)})},
    "cards": {"compute": (89,)},
    "back end": {"backend": "tensorrt"},
    "fp8": {"fp8": True},
    "refit": {"refit": True},
    "lora": {"loras": (("style.safetensors", 0.8),)},
    "strength": {"loras": (("style.safetensors", 0.9),)},
}


def test_every_part_of_the_key_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {"graph": "g", "weights": "w"}
    monkeypatch.setattr(preflight, "library_version", lambda backend: "1")
    monkeypatch.setattr(preflight, "driver", lambda: "580.1")
    known = [facts_of("denoiser", hashes, wish(**other)) for other in ({}, *OTHERS.values())]
    known += [facts_of("denoiser", {**hashes, part: "x"}, wish()) for part in hashes]
    known += [facts_of("decoder", hashes, wish())]
    monkeypatch.setattr(preflight, "library_version", lambda backend: "2")
    known += [facts_of("denoiser", hashes, wish())]
    assert len({key_of(f) for f in known}) == len(known)
    rtx = facts_of("denoiser", hashes, wish())
    full = facts_of("denoiser", hashes, wish(backend="tensorrt"))
    monkeypatch.setattr(preflight, "driver", lambda: "590.2")
    assert facts_of("denoiser", hashes, wish()) == rtx  # compiles its kernels where it runs
    assert key_of(facts_of("denoiser", hashes, wish(backend="tensorrt"))) != key_of(full)


def test_without_its_weights_an_engine_serves_every_checkpoint() -> None:
    loras = wish(refit=True, loras=(("style.safetensors", 0.8),))
    one = facts_of("denoiser", {"graph": "g", "weights": "a"}, wish(refit=True))
    assert one == facts_of("denoiser", {"graph": "g", "weights": "b"}, loras)


@pytest.mark.parametrize("part", ["weights", "structure", "precision", "sizes", "cards", "lora", "version"])
def test_another_key_builds_anew(cache: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small(seed=part == "weights", width=12 if part == "structure" else 8)
    if part == "version":
        monkeypatch.setattr("engines.preflight.library_version", lambda backend: "0.9")
    ready(network, wish(**OTHERS.get(part, {})), cache, exact=True)
    assert len(engines(cache)) == 2


def test_an_engine_that_takes_more_serves_less(kept: Path, never: None) -> None:
    spans = {"rows": (1, 2, 2), "h": (16, 24, 32), "w": (8, 8, 8)}
    assert ready(small(), wish(profiles=Profiles(spans), compute=(89,)), kept).parent in engines(kept)
    with pytest.raises(pytest.fail.Exception, match="built again"):
        ready(small(), wish(profiles=Profiles({**spans, "h": (16, 24, 40)})), kept)
    with pytest.raises(pytest.fail.Exception, match="built again"):
        ready(small(), wish(compute=(86,)), kept)


def test_profiles_follow_size_factor_and_rows() -> None:
    made = Profiles.around(640, 360, 8, rows=(1, 2, 8)).spans
    assert made["W"] == (256, 640, 1024)
    assert made["h"] == (32, 45, 128)
    assert made["rows"] == (1, 2, 8)
    assert Profiles.around(1920, 128, 8).spans["H"] == (128, 128, 1024)
    assert Profiles.around(1920, 128, 8).spans["W"] == (256, 1920, 1920)
    with pytest.raises(EngineError, match="the axis 'frames' has no span"):
        Profiles(made).named(["rows", "frames"])


# ----------------------------------------------------------------------------------- killed, raced, spoilt


def start(cache: Path, *more: str) -> subprocess.Popen[bytes]:
    """A process that builds the small network, and says what its engine's checksum is."""
    code = f"""
import hashlib, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
from test_build import ready, small, wish
print(hashlib.sha256(ready(small(), wish(), Path({str(cache)!r})).read_bytes()).hexdigest())
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def builders(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return [p for p in psutil.Process(process.pid).children() if "engines.builder" in " ".join(p.cmdline())]
    except psutil.NoSuchProcess:
        return []


def wait(until: Any, what: str, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := until():
            return found
        time.sleep(0.01)
    return pytest.fail(f"never came: {what}")


def test_a_killed_builder_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait(lambda: builders(process), "a builder")[0].kill()
    _, said = process.communicate(timeout=60)
    assert b"its process was killed, most likely for lack of memory: it needs about 0.9 GB" in said
    assert engines(tmp_path) == []


def test_a_killed_build_ends_its_builder_and_the_next_one_finds_nothing_half(tmp_path: Path) -> None:
    process = start(tmp_path)
    builder = wait(lambda: builders(process), "a builder")[0]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    wait(lambda: not builder.is_running() or builder.status() == psutil.STATUS_ZOMBIE, "the builder's end")
    assert all(p.name.startswith(".new-") for p in engines(tmp_path))
    assert ready(small(), wish(), tmp_path).is_file()
    assert [p.name.startswith(".") for p in engines(tmp_path)] == [False]


def test_gc_clears_what_a_killed_build_left(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = cache / SHELF / ".new-x" / "graph"
    left.mkdir(parents=True)
    (left / "model.onnx").write_bytes(bytes(3_000_000))
    monkeypatch.setenv("LIVEBRUSH_CACHE", str(cache))
    assert "3.0 MB are free" in CliRunner().invoke(livebrush.app, ["engines", "gc"]).output
    assert [p.name.startswith(".") for p in engines(cache)] == [False]


def test_two_processes_build_once(tmp_path: Path) -> None:
    first, second = start(tmp_path), start(tmp_path)
    seen = set()
    while first.poll() is None or second.poll() is None:
        seen |= {p.pid for one in (first, second) for p in builders(one)}
        time.sleep(0.005)
    (one, said), (other, also) = first.communicate(), second.communicate()
    assert one == other != b"", (said, also)
    assert len(seen) == 1
    assert b"another process is making something" in said + also


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("flip", "engine.plan has changed since it was written"),
        ("cut", "engine.plan has 1000 bytes, expected"),
        ("remove", "engine.plan is missing"),
        ("version", "its manifest is of another version of Livebrush, expected format 2"),
        ("nonsense", "its manifest is missing or damaged"),
        ("foreign", "it was made for something else than its name says"),
    ],
)
def test_what_is_spoilt_is_named_set_aside_and_built_again(
    cache: Path, harm: str, told: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place,) = engines(cache)
    spoil(place, harm)
    monkeypatch.setenv("LIVEBRUSH_CACHE", str(cache))
    verified = CliRunner().invoke(livebrush.app, ["engines", "verify"])
    assert verified.exit_code == 2
    assert f"{place.name}: {told}" in verified.output
    with caplog.at_level(logging.WARNING, "livebrush"):
        file = ready(small(), wish(), cache)
    assert [told in r.message for r in caplog.records] == [True]
    assert wrong(file.parent) is None
    assert engines(cache) == [place, place.with_name(place.name + ".damaged")]
    cleared = CliRunner().invoke(livebrush.app, ["engines", "gc"])
    assert "was set aside before" in cleared.output
    assert engines(cache) == [place]


def spoil(place: Path, harm: str) -> None:
    file, manifest = place / PLAN, json.loads((place / MANIFEST).read_text())
    whole = file.read_bytes()
    if harm == "flip":
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif harm == "cut":
        file.write_bytes(whole[:1000])
    elif harm == "remove":
        file.unlink()
    elif harm == "version":
        (place / MANIFEST).write_text(json.dumps(manifest | {"format": 1}))
    elif harm == "nonsense":
        (place / MANIFEST).write_text("[")
    else:
        manifest["facts"]["compute"] = [75]
        (place / MANIFEST).write_text(json.dumps(manifest))


def test_a_whole_cache_is_verified_and_nothing_of_it_cleared(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEBRUSH_CACHE", str(kept))
    verified = CliRunner().invoke(livebrush.app, ["engines", "verify"])
    assert (verified.exit_code, verified.output) == (0, "1 engines, all whole\n")
    assert CliRunner().invoke(livebrush.app, ["engines", "gc"]).output == "0.0 MB are free\n"
    assert len(engines(kept)) == 1


def test_gc_names_engines_of_another_version_and_idle_ones(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    assert list(shelf.unfit(kept, now=now)) == []
    assert [x.why for x in shelf.unfit(kept, 3, now=now + 5 * 86400)] == ["it was last used 5 days ago"]
    monkeypatch.setenv("LIVEBRUSH_CACHE", str(kept))
    dry = CliRunner().invoke(livebrush.app, ["engines", "gc", "--all", "--dry-run"])
    assert "all were asked for" in dry.output
    assert len(engines(kept)) == 1
    monkeypatch.setattr(preflight, "library_version", lambda backend: "9.9")
    (old,) = shelf.unfit(kept)
    assert old.why.endswith("and 9.9 is installed")
    assert not old.damaged


# ------------------------------------------------------------------------------------------- refused, failed


def test_a_full_disk_is_refused_before_with_the_figure_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(total=10**12, used=10**12, free=50_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda place: full)
    told = r"needs about 0\.1 GB of disk in .*, 0\.1 GB are free: free some space \(livebrush engines gc\)"
    with pytest.raises(EngineError, match=told):
        ready(small(), wish(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, where every write fails")
def test_a_disk_that_fills_while_the_engine_is_written_is_one_message(tmp_path: Path) -> None:
    exported = export(small(), tmp_path, "f16")
    place = tmp_path / "place"
    place.mkdir()
    (place / PLAN).symlink_to("/dev/full")
    with pytest.raises(EngineError, match=r"cannot be written \(No space left on device\): it needs about .* GB"):
        build(exported, place, wish())
    assert list(place.iterdir()) == []


def test_too_little_memory_is_refused_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "memory_free", lambda: 2_000_000_000)
    with pytest.raises(EngineError, match=r"needs about 6\.4 GB of memory, 2\.0 GB are free: close other programs"):
        preflight.check("tensorrt-rtx", CARDS, "f16", 1_730_000_000, tmp_path)


def test_too_small_a_card_is_refused_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "card_here", lambda: 89)
    monkeypatch.setattr(preflight, "card_memory_free", lambda: 2_000_000_000)
    with pytest.raises(EngineError, match=r"needs more than 2\.2 GB of the card's memory, 2\.0 GB are free"):
        preflight.check("tensorrt-rtx", (89,), "f16", 1_730_000_000, tmp_path)
    preflight.check_card_memory((120,), 1_730_000_000)  # another card than the one that is here


def test_memory_is_what_the_container_may_take(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:  50 kB\n")
    assert preflight.memory_free(meminfo, tmp_path) == 51200
    (tmp_path / "memory.max").write_text("40000\n")
    (tmp_path / "memory.current").write_text("30000\n")
    assert preflight.memory_free(meminfo, tmp_path) == 10000
    (tmp_path / "memory.max").write_text("max\n")
    assert preflight.memory_free(meminfo, tmp_path) == 51200
    assert preflight.memory_free(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"compute": (90,)}, r"does not build for SM 9\.0: it knows SM 7\.5, .* use --backend tensorrt"),
        ({"compute": ()}, r"there is no card here: say which to build for, e\.g\. --sm 89"),
        ({"backend": "tensorrt"}, r"tensorrt needs tensorrt: pip install tensorrt$"),
        ({"backend": "tensorflow"}, r"'tensorflow' builds no engines: use tensorrt or tensorrt-rtx"),
        ({"precision": "int8"}, r"tensorrt-rtx does not run 'int8': use f16 or bf16 or f32"),
        ({"precision": "bf16", "compute": (75, 89)}, r"bf16 needs SM 8\.0 or newer, not SM 7\.5: use f16"),
        ({"fp8": True, "compute": (86,)}, r"FP8 needs SM 8\.9 or newer, not SM 8\.6: leave --fp8"),
        ({"refit": True, "compute": (89,)}, r"weights can be exchanged is built only on a machine with a card"),
    ],
)
def test_what_cannot_be_built_here_is_refused_at_once(other: dict[str, Any], told: str, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("what can be built here is another matter with a card")
    with pytest.raises(EngineError, match=told):
        ready(small(), wish(**other), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lacking", ["polygraphy", "tensorrt_rtx"])
def test_a_missing_library_says_what_to_install(lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = preflight.find_spec
    monkeypatch.setattr(preflight, "find_spec", lambda name: None if name == lacking else there(name))
    monkeypatch.setenv("LIVEBRUSH_CACHE", str(tmp_path))
    result = CliRunner().invoke(livebrush.app, ["engines", "build", "builtin", "--sm", "89"])
    assert result.exit_code == 2
    assert f"tensorrt-rtx needs {lacking}: pip install {lacking.replace('_', '-')}" in result.output


def test_tensorrt_itself_builds_for_the_card_that_is_here_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "card_here", lambda: 90)
    preflight.check_card("tensorrt", (90,), "f16")
    with pytest.raises(EngineError, match=r"here is SM 9\.0, asked for is SM 8\.9: build there"):
        preflight.check_card("tensorrt", (89,), "f16")


TWIN = """
import tensorrt_rtx
from tensorrt_rtx import *

__version__ = "10.13.0"
"""


def test_tensorrts_own_way_builds_with_its_twin_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tensorrt cannot be installed here: tensorrt-rtx under its name goes the same way through polygraphy, which makes
    another configuration for it; with a timing cache, as on the machine with the card."""
    (tmp_path / "tensorrt.py").write_text(TWIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(preflight, "card_here", lambda: 89)
    monkeypatch.setattr(preflight, "library_version", lambda backend: "10.13.0")
    exported = export(small(), tmp_path, "f16")
    for _ in range(2):
        built = build(exported, tmp_path, wish(backend="tensorrt", compute=()), timing=tmp_path / "timing")
        assert built.version == "10.13.0"
        assert built.file.read_bytes()[:4] == b"vtrt"
        assert (tmp_path / "timing" / "tensorrt-10.13.0-sm89.cache").stat().st_size > 0


def test_what_tensorrt_says_of_a_graph_it_cannot_build_is_the_message(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    exported: Any = SimpleNamespace(file=tmp_path / "model.onnx")
    with pytest.raises(EngineError, match=r"tensorrt-rtx could not build the engine: .*\nuse --engine torch"):
        build(exported, tmp_path, wish())


def test_a_timing_cache_is_of_a_version_and_a_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from engines.build import _timing

    monkeypatch.setattr(preflight, "card_here", lambda: 89)
    assert _timing(tmp_path, wish(compute=(89,))) == str(
        tmp_path / f"tensorrt-rtx-{preflight.library_version('tensorrt-rtx')}-sm89.cache"
    )
    monkeypatch.setattr(preflight, "card_here", lambda: None)
    assert _timing(tmp_path, wish()) is None  # nothing is timed without a card


# ---------------------------------------------------------------------------------------------- the telling


def test_progress_is_how_far_nested_phases_are() -> None:
    told: list[tuple[str, float]] = []
    progress = Progress(lambda name, far: told.append((name, far)))
    progress.start("all", 2)
    progress.start("first", 4)
    progress.step("first", 0)
    progress.step("first", 3)
    progress.finish("first")
    progress.step("all", 0)  # no further than before: not told
    progress.start("second", 2)
    progress.step("second", 0)
    progress.step("unknown", 7)
    assert told == [("first", 0.125), ("first", 0.5), ("second", 0.75)]


def test_a_build_is_told_in_lines_where_there_is_no_terminal() -> None:
    from io import StringIO

    from rich.console import Console

    from stream.terminal import building

    now, out = [0.0], StringIO()
    phases = [("encoder: a", 0.1), ("encoder: b", 0.2), ("encoder: c", 0.5), ("decoder: a", 0)]
    with building(Console(file=out), lambda: now[0]) as tell:
        for second, (what, far) in enumerate(phases):
            now[0] = float(second)
            tell(what, far)
    assert out.getvalue().splitlines() == [" 10% encoder: a", " 50% encoder: c", "  0% decoder: a"]


def test_full_size_builds_are_measured_and_kept_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools import build_engines, full_size

    spans = {**SPANS, "H": (64, 64, 64)}
    monkeypatch.setattr("engines.build.Profiles.around", lambda *_: Profiles(spans))
    monkeypatch.setattr(full_size, "MODELS", {"tiny": {}})
    monkeypatch.setattr(full_size, "names", lambda model: ["unet"])
    monkeypatch.setattr(full_size, "outline", lambda *_: (small(), None))
    file, app = tmp_path / "engines.json", typer.Typer()
    page = file.with_suffix(".md")
    page.write_text(f"before\n{build_engines.MARK} old {build_engines.MARK}\nafter\n")
    app.command()(build_engines.main)
    result = CliRunner().invoke(app, ["--full-size", "tiny", "--sm", "89", "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "unet (f16)" in result.output
    kept = json.loads(file.read_text())
    fact = kept["tiny"]["networks"]["unet"]
    assert "| unet (f16) |" in page.read_text()
    assert "old" not in page.read_text()
    assert page.read_text().endswith("after\n")
    assert fact["together_peak_bytes"] > fact["builder_peak_bytes"] / 2 > 0
    assert fact["seconds"] > fact["parse_s"] + fact["build_s"] > 0
    wrong_name = CliRunner().invoke(app, ["--full-size", "sd9"])
    assert wrong_name.exit_code == 2
    assert "'sd9' is unknown: use tiny" in wrong_name.output


# ------------------------------------------------------------------------------------------------------ fp8


def test_fp8_says_when_it_is_not_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.fp8.find_spec", lambda name: None)
    monkeypatch.setenv("LIVEBRUSH_CACHE", str(tmp_path))
    result = CliRunner().invoke(livebrush.app, ["engines", "build", "builtin", "--sm", "89", "--fp8"])
    assert result.exit_code == 2
    assert "FP8 is not available: it needs nvidia-modelopt: pip install nvidia-modelopt" in result.output


def test_fp8_of_the_builtin_model_builds_and_is_close(tmp_path: Path) -> None:
    pytest.importorskip("modelopt.torch.quantization", reason="needs nvidia-modelopt")
    import onnxruntime

    from engines.fp8 import quantized
    from stream.config import spec
    from stream.models import networks_of
    from stream.samples import samples
    from stream.weights import read_pipeline

    pipeline = read_pipeline(spec("builtin"))
    parts = networks_of(pipeline, spec("builtin"))
    denoiser = next(n for n in parts if n.name == "denoiser")
    seen = samples(pipeline, spec("builtin"), parts)
    plain = export(denoiser, tmp_path, "f16")
    eight = quantized(plain, denoiser.module, seen)
    assert eight.graph != plain.graph
    session = onnxruntime.InferenceSession(str(eight.file))
    for sample in seen:
        with torch.inference_mode():
            expected = denoiser.module(*sample)
        feed = {port.name: x.numpy() for port, x in zip(denoiser.inputs, sample, strict=True)}
        error = torch.from_numpy(session.run(None, feed)[0]) - expected
        assert 1e-4 < float(error.square().mean().sqrt() / expected.std()) < 0.15
    built = build(eight, tmp_path, wish(profiles=Profiles(denoiser.spans), fp8=True))
    assert built.file.read_bytes()[:4] == b"vtrt"
