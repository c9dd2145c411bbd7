"""The bench of a graphics card: full-size networks with random weights (speed does not depend on them), each figure
beside the card's own ceilings for matrices and copies, measured in the same run, and beside plain diffusers.

    livebrush bench --gpu --json docs/benchmarks/my-card.json      # and my-card.md beside it

One row is one combination of network, size, steps and batch (pictures a tick) on one engine. What is timed is a tick
of the networks, from pictures on the card to pictures on the card, by the card's own clock.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import engines
from engines import TENSORRT, Choice, Engine, EngineError, LivebrushError, Network, Precision
from engines.cache import default_folder
from engines.torch import DTYPES
from stream import networks
from stream.networks import TIME_IDS
from stream.quiet import quiet
from tools import full_size

SIZES, STEPS, BATCHES = (512, 1024), (1, 2, 3, 4), (1, 2, 4, 8, 16)
ROUNDS, WARM_UP = 3, 2
ENOUGH_S = 0.2  # of work in a round
USUAL = 4  # rows that engines which are built for a range are fastest at
PACKAGES = ("torch", "diffusers", "tensorrt", "tensorrt-rtx", "polygraphy", "numpy")
NO_CARD = "no CUDA card here: livebrush bench --gpu measures one; livebrush bench measures the processor"


# ------------------------------------------------------------------------------------------------- what is measured


@dataclass(frozen=True, eq=False)
class Subject:
    """An architecture: its name, UNet and VAE, and the widths of its text."""

    name: str
    unet: Any
    vae: Any
    pooled: int | None = None

    @property
    def factor(self) -> int:
        return networks.factor_of(self.vae)

    def networks(self) -> dict[str, Network]:
        """Encoder, denoiser and decoder as engines take them."""
        multiple = self.factor * networks.halvings_of(self.unet)
        parts = (networks.encoder(self.vae, multiple), networks.denoiser(self.unet, full_size.TOKENS, self.pooled),
                 networks.decoder(self.vae, multiple))  # fmt: skip
        return {n.name: n for n in parts}


MODELS = ("sd-turbo", "sdxl-turbo")


def subject(model: str, dtype: torch.dtype, device: str = "cpu") -> Subject:
    """A model of `tools.full_size` with the small autoencoder that is used live. On the CPU: engines take it from
    there, one after the other."""
    parts = full_size.MODELS[model]
    unet, vae = (full_size.hollow(parts[n], dtype) for n in ("unet", "taesd"))
    if device != "meta":
        unet, vae = (full_size.drawn(m, device) for m in (unet, vae))
    return Subject(model, unet, vae, full_size.POOLED.get(model))


@dataclass(frozen=True)
class Case:
    """One combination."""

    size: int
    steps: int
    batch: int

    @property
    def rows(self) -> int:
        """Of one call of the denoiser: every step of every picture in flight."""
        return self.steps * self.batch


@dataclass(frozen=True)
class Ceilings:
    """What the card itself does at best: products of large matrices, and copies from memory to memory."""

    matrix_tflops: float
    copy_gbs: float  # read and written together


@dataclass(frozen=True)
class Row:
    """What came out of a case on an engine; milliseconds are of one tick, and `failed` says why there are none."""

    model: str
    engine: str
    size: int
    steps: int
    batch: int
    tick_ms: float = 0.0
    encode_ms: float = 0.0
    denoise_ms: float = 0.0
    decode_ms: float = 0.0
    fps: float = 0.0
    tflops: float = 0.0
    of_matrix: float = 0.0  # share of the ceiling
    floor_ms: float = 0.0  # what the ceilings allow: the arithmetic, or reading every weight once
    peak_gb: float = 0.0
    diffusers_ms: float = 0.0  # for as many pictures in as many steps
    vs_diffusers: float = 0.0
    failed: str = ""


# ------------------------------------------------------------------------------------------------- clocks and ceilings


def seconds(
    work: Callable[[], object], device: torch.device, enough_s: float = ENOUGH_S, rounds: int = ROUNDS
) -> float:
    """What `work` takes, the median of the rounds. On a card by its own clock, without waiting between two."""
    for _ in range(WARM_UP):
        work()
    once = max(_timed(work, 1, device), 1e-7)
    count = max(1, min(1000, round(enough_s / once)))
    return statistics.median(_timed(work, count, device) / count for _ in range(rounds))


def _timed(work: Callable[[], object], count: int, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(count):
            work()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    for _ in range(count):
        work()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000


@torch.inference_mode()
def ceilings(device: torch.device, dtype: torch.dtype, side: int = 8192, megabytes: int = 1024) -> Ceilings:
    """Of a square product in `dtype`, and of a copy that no cache holds."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    matrix_s = seconds(lambda: torch.matmul(a, b, out=out), device)
    source = torch.ones(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = seconds(lambda: target.copy_(source), device)
    return Ceilings(2 * side**3 / matrix_s / 1e12, 2 * source.numel() / copy_s / 1e9)


def flops(network: Network, rows: int, height: int, width: int, factor: int) -> int:
    """Arithmetic of one call: multiplications and additions of its products and convolutions, counted on shapes."""
    sizes = {"rows": rows, "H": height, "W": width, "h": height // factor, "w": width // factor}
    inputs = [torch.empty([a if isinstance(a, int) else sizes[a] for a in p.shape], dtype=p.dtype, device="meta")
              for p in network.inputs]  # fmt: skip
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        hollow(network.module)(*inputs)
    return int(counter.get_total_flops())


def hollow(module: nn.Module) -> nn.Module:
    """The same module without memory."""
    from copy import deepcopy

    memo: dict[int, Any] = {id(w): nn.Parameter(torch.empty_like(w, device="meta"), requires_grad=False)
                            for w in module.parameters()}  # fmt: skip
    return deepcopy(module, memo).to("meta")


def weight_bytes(network: Network, precision: Precision) -> int:
    return sum(w.numel() for w in network.module.parameters()) * DTYPES[precision].itemsize


# ------------------------------------------------------------------------------------------------- one tick


class Tick:
    """The networks' share of a tick: `batch` pictures are encoded, all rows denoised, `batch` pictures decoded."""

    def __init__(self, subject: Subject, made: Mapping[str, Engine], case: Case, device: torch.device) -> None:
        self._made, self._case = made, case
        factor, unet = subject.factor, subject.unet
        cells = case.size // factor
        self.images = torch.randint(0, 256, (case.batch, case.size, case.size, 3), dtype=torch.uint8, device=device)
        self.latents = torch.randn(case.rows, int(unet.config.in_channels), cells, cells, device=device)
        self.t = torch.full((case.rows,), 499.0, device=device)
        tokens = torch.randn(case.rows, full_size.TOKENS, int(unet.config.cross_attention_dim), device=device)
        self.text = [tokens]
        if subject.pooled is not None:
            ids = torch.tensor([[case.size, case.size, 0, 0, case.size, case.size]], dtype=torch.float32, device=device)
            assert ids.shape[1] == TIME_IDS
            self.text += [torch.randn(case.rows, subject.pooled, device=device), ids.expand(case.rows, -1).contiguous()]

    def encode(self) -> Tensor:
        return self._made["encoder"](self.images)

    def denoise(self) -> Tensor:
        return self._made["denoiser"](self.latents, self.t, *self.text)

    def decode(self) -> Tensor:
        return self._made["decoder"](self.latents[: self._case.batch])

    def __call__(self) -> Tensor:
        self.encode()
        self.denoise()
        return self.decode()


class Diffusers:
    """Plain diffusers image-to-image with the same networks, its text made before the clock starts."""

    def __init__(self, subject: Subject, device: torch.device, dtype: torch.dtype) -> None:
        from diffusers import LCMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline

        scheduler = LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
        parts = {
            "vae": subject.vae,
            "unet": subject.unet,
            "scheduler": scheduler,
            "text_encoder": None,
            "tokenizer": None,
        }
        if subject.pooled is None:
            self._pipeline: Any = StableDiffusionImg2ImgPipeline(
                **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
        else:
            self._pipeline = StableDiffusionXLImg2ImgPipeline(**parts, text_encoder_2=None, tokenizer_2=None)
        self._pipeline.to(device, dtype)
        self._pipeline.set_progress_bar_config(disable=True)
        self._subject, self._device, self._dtype = subject, device, dtype

    def __call__(self, case: Case) -> Callable[[], Any]:
        """A function that paints the case's pictures."""
        make = {"device": self._device, "dtype": self._dtype}
        images = torch.rand(case.batch, 3, case.size, case.size, **make)  # type: ignore[call-overload]
        width = int(self._subject.unet.config.cross_attention_dim)
        text = {"prompt_embeds": torch.randn(case.batch, full_size.TOKENS, width, **make)}  # type: ignore[call-overload]
        if self._subject.pooled is not None:
            text["pooled_prompt_embeds"] = torch.randn(case.batch, self._subject.pooled, **make)  # type: ignore[call-overload]
        t = [999 - 250 * k for k in range(case.steps)]

        def paint() -> Any:
            with quiet():
                return self._pipeline(image=images, timesteps=t, num_inference_steps=case.steps, strength=1.0,
                                      guidance_scale=1.0, output_type="pt", **text).images  # fmt: skip

        return paint


# ------------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    sizes: Sequence[int] = SIZES
    steps: Sequence[int] = STEPS
    batches: Sequence[int] = BATCHES
    enough_s: float = ENOUGH_S
    rounds: int = ROUNDS

    def seconds(self, work: Callable[[], object], device: torch.device) -> float:
        return seconds(work, device, self.enough_s, self.rounds)

    def cases(self) -> Iterator[Case]:
        for size in self.sizes:
            for steps in self.steps:
                for batch in self.batches:
                    yield Case(size, steps, batch)


QUICK = Plan((512,), (1, 2), (1, 4, 16), 0.1)


def measured(subject: Subject, choices: Sequence[Choice], plan: Plan, best: Ceilings,
             tell: Callable[[Row], None] = lambda _: None) -> list[Row]:  # fmt: skip
    """All cases of an architecture, on plain diffusers first and then on each engine."""
    device, dtype = torch.device(choices[0].device), DTYPES[choices[0].precision]
    theirs = plain_times(subject, plan, device, dtype)
    work = {case: work_of(subject, case) for case in plan.cases()}
    rows = []
    for choice in choices:
        for row in engine_rows(subject, choice, plan, best, work):
            ms = theirs[Case(row.size, row.steps, row.batch)]
            row = replace(row, diffusers_ms=ms, vs_diffusers=ms / row.tick_ms if row.tick_ms else 0.0)
            tell(row)
            rows.append(row)
    return rows


def plain_times(subject: Subject, plan: Plan, device: torch.device, dtype: torch.dtype) -> dict[Case, float]:
    """Milliseconds of plain diffusers by case, 0 where there is no memory for it."""
    plain = Diffusers(subject, device, dtype)
    out = {}
    for case in plan.cases():
        try:
            out[case] = 1000 * plan.seconds(plain(case), device)
        except torch.OutOfMemoryError:
            out[case] = 0.0
    return out


def work_of(subject: Subject, case: Case) -> int:
    """Arithmetic of one tick."""
    calls = {"encoder": case.batch, "denoiser": case.rows, "decoder": case.batch}
    parts = subject.networks()
    return sum(flops(parts[n], rows, case.size, case.size, subject.factor) for n, rows in calls.items())


def engine_rows(
    subject: Subject, choice: Choice, plan: Plan, best: Ceilings, work: Mapping[Case, int]
) -> Iterator[Row]:
    """Rows of one engine; where it cannot be had at all, one failed row for each case."""
    name = f"{choice.backend} {choice.precision}"
    try:
        made = {n: engines.engine_of(net, choice, default_folder()) for n, net in spanned(subject, plan).items()}
    except (LivebrushError, RuntimeError, OSError) as error:
        for case in plan.cases():
            yield Row(subject.name, name, case.size, case.steps, case.batch, failed=str(error))
        return
    weights = sum(weight_bytes(n, choice.precision) for n in subject.networks().values())
    for case in plan.cases():
        row = Row(subject.name, name, case.size, case.steps, case.batch)
        try:
            yield filled(row, Tick(subject, made, case, torch.device(choice.device)), work[case], weights, best, plan)
        except (EngineError, RuntimeError) as error:  # out of memory, mostly: the next case may fit
            yield replace(row, failed=str(error).splitlines()[0])


def spanned(subject: Subject, plan: Plan) -> dict[str, Network]:
    """The networks with the sizes and rows of the plan, for engines that are built for a range."""
    most = {"encoder": max(plan.batches), "denoiser": max(plan.batches) * max(plan.steps), "decoder": max(plan.batches)}
    least_side, most_side, factor = min(plan.sizes), max(plan.sizes), subject.factor
    out = {}
    for name, network in subject.networks().items():
        spans = {"rows": (1, min(USUAL, most[name]), most[name])}
        spans |= dict.fromkeys("HW", (least_side, least_side, most_side))
        spans |= dict.fromkeys("hw", (least_side // factor, least_side // factor, most_side // factor))
        named = {a for port in network.inputs for a in port.shape if isinstance(a, str)}
        out[name] = replace(network, spans={a: spans[a] for a in named})
    return out


def filled(row: Row, tick: Tick, work: int, weights: int, best: Ceilings, plan: Plan) -> Row:
    """A row with its figures."""
    device = tick.images.device
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    tick_s, *stages = (plan.seconds(f, device) for f in (tick, tick.encode, tick.denoise, tick.decode))
    encode_ms, denoise_ms, decode_ms = (1000 * s for s in stages)
    rate = work / tick_s / 1e12
    floor_s = max(work / best.matrix_tflops / 1e12, weights / best.copy_gbs / 1e9)
    return replace(
        row, tick_ms=1000 * tick_s, encode_ms=encode_ms, denoise_ms=denoise_ms, decode_ms=decode_ms,
        fps=row.batch / tick_s, tflops=rate, of_matrix=rate / best.matrix_tflops, floor_ms=1000 * floor_s,
        peak_gb=torch.cuda.max_memory_reserved(device) / 1e9 if cuda else 0.0,
    )  # fmt: skip


def choices_here(precision: str = "auto") -> list[Choice]:
    """Every engine that runs on this card: plain torch's graphs, and TensorRT of both kinds."""
    out = []
    for name in ("torch", *TENSORRT):
        if engines.backend(name).missing() is None:
            out.append(engines.choose(name, "cuda", precision))
    return out


# ------------------------------------------------------------------------------------------------- telling


def result_of(rows: Sequence[Row], best: Ceilings, quick: bool) -> dict[str, Any]:
    """Everything, as one value."""
    return {"conditions": conditions(), "ceilings": asdict(best), "quick": quick, "rows": [asdict(r) for r in rows]}


def conditions() -> dict[str, Any]:
    """What the figures depend on."""
    cuda = torch.cuda.is_available()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "card": torch.cuda.get_device_name() if cuda else None,
        "capability": ".".join(map(str, torch.cuda.get_device_capability())) if cuda else None,
        "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1) if cuda else None,
        "cuda": torch.version.cuda,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {p: v for p in PACKAGES if (v := installed(p))},
        "weights": "random",
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


COLUMNS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("size", lambda r: f"{r['size']}²"),
    ("steps", lambda r: str(r["steps"])),
    ("batch", lambda r: str(r["batch"])),
    ("engine", lambda r: str(r["engine"])),
    ("tick ms", lambda r: f"{r['tick_ms']:.2f}"),
    ("encode", lambda r: f"{r['encode_ms']:.2f}"),
    ("denoise", lambda r: f"{r['denoise_ms']:.2f}"),
    ("decode", lambda r: f"{r['decode_ms']:.2f}"),
    ("fps", lambda r: f"{r['fps']:.1f}"),
    ("TFLOP/s", lambda r: f"{r['tflops']:.1f}"),
    ("of the matrix ceiling", lambda r: f"{r['of_matrix']:.0%}"),
    ("floor ms", lambda r: f"{r['floor_ms']:.2f}"),
    ("peak GB", lambda r: f"{r['peak_gb']:.1f}"),
    ("diffusers ms", lambda r: f"{r['diffusers_ms']:.2f}" if r["diffusers_ms"] else "no memory"),
    ("times diffusers", lambda r: f"{r['vs_diffusers']:.2f}" if r["vs_diffusers"] else "-"),
)
PLACE = 4  # columns that say what a row is


def markdown(result: Mapping[str, Any]) -> str:
    """The figures as a page."""
    where, best = result["conditions"], result["ceilings"]
    versions = ", ".join(f"{k} {v}" for k, v in where["versions"].items())
    lines = [
        f"# {where['card'] or where['system']}",
        "",
        f"{where['date']}, CUDA {where['cuda']}, {versions}. Random weights{', quick run' if result['quick'] else ''}. "
        f"Ceilings measured in the same run: {best['matrix_tflops']:.1f} TFLOP/s of a large product, "
        f"{best['copy_gbs']:.0f} GB/s of a copy (read and written). The floor is what these allow: all arithmetic at "
        "the first, or each weight read once at the second. Plain diffusers has the same networks, steps and images.",
    ]
    for model in dict.fromkeys(r["model"] for r in result["rows"]):
        head = [name for name, _ in COLUMNS]
        lines += ["", f"## {model}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        lines += [_line(r) for r in result["rows"] if r["model"] == model]
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    cells = [show(row) for _, show in COLUMNS]
    if row["failed"]:
        cells = [*cells[:PLACE], row["failed"].splitlines()[0].replace("|", "/"), *[""] * (len(COLUMNS) - PLACE - 1)]
    return "| " + " | ".join(cells) + " |"


def write(result: Mapping[str, Any], path: Path) -> None:
    """JSON, and the page beside it, each whole or not at all."""
    for file, text in ((path, json.dumps(result, indent=1) + "\n"), (path.with_suffix(".md"), markdown(result))):
        new = file.with_name(file.name + ".new")
        new.write_text(text, encoding="utf-8")
        new.replace(file)


def run(subjects: Sequence[Callable[[], Subject]], choices: Sequence[Choice], plan: Plan, best: Ceilings,
        console: Console) -> list[Row]:  # fmt: skip
    """All subjects, one in memory at a time."""
    rows: list[Row] = []
    for make in subjects:
        rows += measured(make(), choices, plan, best, lambda row: console.print(_line(asdict(row)), highlight=False))
    return rows


def main(quick: bool = False, json_file: Path | None = None, precision: str = "auto") -> None:
    """Measures this machine's card, prints, and writes. EngineError where there is none."""
    if not torch.cuda.is_available():
        raise EngineError(NO_CARD)
    console = Console()
    choices = choices_here(precision)
    best = ceilings(torch.device("cuda"), DTYPES[choices[0].precision])
    console.print(f"{torch.cuda.get_device_name()}: {best.matrix_tflops:.1f} TFLOP/s, {best.copy_gbs:.0f} GB/s")
    result = result_of(
        run(full_size(DTYPES[choices[0].precision]), choices, QUICK if quick else Plan(), best, console), best, quick
    )
    console.print(markdown(result), highlight=False, soft_wrap=True)
    write(result, path := json_file or Path("docs/benchmarks") / f"{slug(result['conditions']['card'])}.json")
    console.print(f"written to {path} and {path.with_suffix('.md')}")


def slug(card: str) -> str:
    return "-".join(card.lower().split())
