"""The process that builds an engine: TensorRT or TensorRT-RTX, through polygraphy.

A process of its own, because polygraphy settles on one of the two for good, because what the builder takes is given
back only by ending, and because a builder that crashes or is killed must not take anything with it. `engines.build`
starts it with one JSON value as its argument and reads a JSON value a line from its standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Span = tuple[int, int, int]
Tell = Callable[[dict[str, Any]], None]


class Progress:
    """How far a build is, 0 to 1, from nested phases of a known number of steps each."""

    def __init__(self, tell: Callable[[str, float], None]) -> None:
        self._tell, self._far = tell, 0.0
        self._phases: dict[str, list[int]] = {}  # name: steps done, steps; the innermost last

    def start(self, name: str, steps: int) -> None:
        self._phases[name] = [0, max(steps, 1)]
        self._say(name)

    def step(self, name: str, index: int) -> None:
        if name in self._phases:
            self._phases[name][0] = index + 1
            self._say(name)

    def finish(self, name: str) -> None:
        self._phases.pop(name, None)

    def _say(self, name: str) -> None:
        far, width = 0.0, 1.0
        for done, steps in self._phases.values():
            far, width = far + width * min(done, steps) / steps, width / steps
        if far >= self._far + 0.002:
            self._far = far
            self._tell(name, far)


def monitor(trt: Any, progress: Progress) -> Any:
    """TensorRT's progress monitor that tells `progress`."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, _parent: str | None, steps: int) -> None:
            progress.start(name, steps)

        def step_complete(self, name: str, index: int) -> bool:
            progress.step(name, index)
            return True

        def phase_finish(self, name: str) -> None:
            progress.finish(name)

    return Monitor()


def profile(network: Any, spans: Mapping[str, Span]) -> Any:
    """The optimization profile of a parsed network whose dynamic axes are named. KeyError where one has no span."""
    from polygraphy.backend.trt import Profile

    made = Profile()
    for k in range(network.num_inputs):
        port = network.get_input(k)
        axes = [(n, n, n) if n >= 0 else spans[port.get_dimension_name(d)] for d, n in enumerate(port.shape)]
        made.add(port.name, *(tuple(span[which] for span in axes) for which in range(3)))
    return made


def configuration(asked: Mapping[str, Any], made: Any, progress: Any) -> Any:
    """Polygraphy's loader of the builder's configuration."""
    common = {"profiles": [made], "progress_monitor": progress, "load_timing_cache": asked["timing"],
              "refittable": asked["refit"], "strip_plan": asked["refit"]}  # fmt: skip
    if asked["backend"] == "tensorrt-rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        return CreateConfigRTX(compute_capabilities=[divmod(c, 10) for c in asked["compute"]], **common)
    from polygraphy.backend.trt import CreateConfig

    return CreateConfig(**common)


def build(asked: Mapping[str, Any], tell: Tell) -> None:
    """Builds `asked["engine"]` from `asked["onnx"]`, and tells how."""
    from polygraphy.backend.trt import engine_bytes_from_network, network_from_onnx_path
    from polygraphy.logger import G_LOGGER
    from polygraphy.mod.trt_importer import lazy_import_trt

    G_LOGGER.module_severity = G_LOGGER.ERROR
    trt, began = lazy_import_trt(), time.monotonic()
    loaded = network_from_onnx_path(asked["onnx"], strongly_typed=True)
    parsed = time.monotonic()
    watch = monitor(trt, Progress(lambda name, far: tell({"phase": name, "far": far})))
    config = configuration(asked, profile(loaded[1], asked["spans"]), watch)
    plan = engine_bytes_from_network(loaded, config=config, save_timing_cache=asked["timing"])
    built = time.monotonic()
    with Path(asked["engine"]).open("wb") as file:
        file.write(memoryview(plan))
    tell({"parse_s": parsed - began, "build_s": built - parsed, "peak_bytes": peak_bytes(), "version": trt.__version__})


def peak_bytes() -> int:
    """The most memory that this process has held. Not `ru_maxrss` where there is better: that one begins with the
    memory of the process that started this one."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def end_with_parent() -> None:
    """Ends this process, whatever it is doing, when the one that started it is gone."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    asked = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
    end_with_parent()
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print

    def tell(fact: dict[str, Any]) -> None:
        out.write(json.dumps(fact) + "\n")

    try:
        build(asked, tell)
    except OSError as error:
        tell({"disk": error.strerror or str(error)})
    except Exception as error:  # noqa: BLE001 (polygraphy's and TensorRT's own; the parent says what it means)
        tell({"failed": str(error) or type(error).__name__})


if __name__ == "__main__":
    main()
