"""The front door: every command, each handing over to a room. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import signal
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream.clips.command import clip
from stream.commandline import (
    INTERRUPTED,
    WRONG,
    Command,
    Group,
    lora,
    option,
    shown,
    sides,
    told,
    with_options,
)
from stream.errors import SettingsError, SourceError
from stream.settings import Settings
from web.command import Panels, serve

if TYPE_CHECKING:
    from engines import Choice
    from stream.config import ModelSpec
    from stream.models import Model
    from stream.render import Outcome
    from stream.sinks import Place
    from stream.sources import Source

app = typer.Typer(
    cls=Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


def main() -> None:
    for asked in (signal.SIGINT, signal.SIGTERM):  # the first may be ignored where a script started us beside itself
        signal.signal(asked, signal.default_int_handler)
    app()


# ------------------------------------------------------------------------------------------------- options


def with_settings(command: Command) -> Command:
    """Gives a command one option for every live setting, its help, limits and default read from `Settings`.

    The command gets those that were given as `settings`. Width and height are left to `--size`.
    """
    fields = {name: field for name, field in Settings.model_fields.items() if name not in ("width", "height")}
    options = {name: option(field, "the model's, or ") for name, field in fields.items()}
    return with_options(command, "settings", options, plain)


def plain(name: str, value: Any) -> Any:
    """A setting's value from its text."""
    if name != "t_index":
        return value
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise SettingsError(f"t_index {value[:80]!r} is no list of whole numbers: use e.g. 32,45") from None


def wanted(model: str, vae: str | None, loras: list[str], settings: dict[str, Any], size: str | None) -> ModelSpec:
    """The preset called `model` with what was asked for on top."""
    from dataclasses import replace

    from stream.config import spec

    found = spec(model)
    if {"strength", "steps"} & set(settings):
        settings = {"t_index": None} | settings  # they mean nothing beside the preset's indices
    asked = found.settings.changed(**settings, **(sides(size) if size else {}))
    return replace(found, vae=vae or found.vae, loras=(*found.loras, *map(lora, loras)), settings=asked)


# ------------------------------------------------------------------------------------------------- run


@app.command()
@with_settings
def run(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A video, a picture, a folder of pictures, testcard, "
                                          "camera, screen, window:TITLE, ndi:NAME, or an address (rtsp://...); see "
                                          "livebrush sources.")],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="A video, a picture, or a folder (name/).")],
    settings: dict[str, Any],
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Size of the painted picture (default: the input's "
                                             "aspect, about the model's number of pixels)")] = None,
    model: Annotated[str, typer.Option(metavar="NAME|PATH", help="A preset (see livebrush models), a folder, a "
                                       ".safetensors file, or a hub id.")] = "builtin",
    vae: Annotated[str | None, typer.Option(metavar="PATH", help="Another autoencoder: a folder or hub id.")] = None,
    loras: Annotated[list[str] | None, typer.Option("--lora", metavar="PATH:0.8", help="A LoRA and its strength; may "
                                                    "be given again.")] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="What runs the networks: auto, torch, openvino, tensorrt "
                                        "or tensorrt-rtx.")] = "auto",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps|gpu", help="Where they run.")] = "auto",
    precision: Annotated[str, typer.Option(metavar="auto|f32|bf16|f16|int8", help="The numbers they use.")] = "auto",
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Put the input beside each picture.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists; in a folder, files of "
                                            "the same name.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write timings and facts there.")] = None,
) -> None:  # fmt: skip
    """Paints INPUT into OUTPUT: every frame in order, timing and sound kept. Ctrl-C leaves what was painted so far."""
    from stream.choice import choose
    from stream.sinks import open_sink
    from stream.sources import open_source

    spec = wanted(model, vae, loras or [], settings, size)
    place = checked(source, output, overwrite, report)
    with open_source(source, frames) as opened:
        frames = limit(opened, place, frames)
        choice = choose(spec, engine, device, precision)
        loaded = load(spec, choice)
        fixed = spec.settings if size else sized(spec.settings, opened, loaded)
        outcome, facts = paint(opened, loaded, fixed, loaded.choice, open_sink(place, opened), output, frames, compare)
    finish(outcome, facts, output, report)


def checked(source: str, output: str, overwrite: bool, report: Path | None) -> Place:
    """Where the output goes; SinkError where it cannot."""
    from stream.sinks import Place, locate

    place = locate(output, Path(source).is_dir())
    place.check(overwrite, Path(source))
    if report is not None:
        if report.absolute() in (Path(source).absolute(), place.path.absolute()):
            raise SettingsError(f"report {report} is the input or the output: give another name")
        Place("report", report).check(overwrite=True)
    return place


def limit(source: Source, place: Place, frames: int | None) -> int | None:
    """How many frames to paint: one for a picture, where the input has no end of its own."""
    from stream.errors import SinkError
    from stream.sinks.image import INSTEAD

    if place.kind != "image" or frames is not None:
        return frames
    if not source.endless and (source.count or 1) > 1:
        raise SinkError(f"output {place.path} holds one picture, and {source.name} has {source.count}: {INSTEAD}")
    return 1 if source.endless else None


def load(spec: ModelSpec, choice: Choice) -> Model:
    """The model, with a word on what is happening."""
    from engines import TENSORRT
    from stream.terminal import building, waiting

    console = told()
    console.print(f"engine: {choice}", highlight=False, soft_wrap=True, markup=False)
    builds = choice.backend in TENSORRT
    with building(console) if builds else waiting(console, f"loading model {spec.name}") as tell:
        from engines.cache import default_folder
        from stream import models

        given = {"tell": tell} if tell is not None else {}
        model = models.load(spec, choice, default_folder(), **given)
    if model.choice != choice:
        console.print(f"engine: {model.choice}", highlight=False, soft_wrap=True, markup=False)
    return model


def sized(settings: Settings, source: Source, model: Model) -> Settings:
    """The settings in a size that suits the input."""
    from stream.render import default_size

    width, height = default_size(source.size, settings.width * settings.height, model.multiple)
    return settings.changed(width=width, height=height)


def paint(source: Source, model: Model, settings: Settings, choice: Choice, sink: Any, output: str,
          frames: int | None, compare: bool) -> tuple[Outcome, dict[str, Any]]:  # fmt: skip
    """The job itself, with its progress."""
    from stream.pipeline import Painter
    from stream.render import TOGETHER, Job, report
    from stream.terminal import progress, stoppable, waiting

    console, painter = told(), Painter(model)
    with waiting(console, f"preparing {settings.width}x{settings.height} (the first time takes longer)"):
        session = painter.open(settings)
    total = min((n for n in (source.count, frames) if n is not None), default=None)
    together = 1 if source.endless else TOGETHER
    job = Job(source, painter, session, sink, frames=frames, compare=compare, together=together)
    with stoppable() as stop, progress(console, total) as tell:
        outcome = job.run(stop, tell)
    return outcome, report(outcome, session, choice, model.name, source, output)


def finish(outcome: Outcome, facts: dict[str, Any], output: str, path: Path | None) -> None:
    """Says what came out, and writes the report."""
    import json

    from stream.sinks import told as disk

    if path is not None:
        with disk(path):
            path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if not outcome.frames_out:
        told().print("stopped: nothing was written")
    else:
        size = f"{facts['output']['width']}x{facts['output']['height']}"
        early = "stopped early; " if outcome.stopped else ""
        text = f"{early}{outcome.frames_out} frames, {size}, in {outcome.seconds:.1f} s ({outcome.fps:.1f} fps)"
        typer.echo(f"{output}: {text}")
    if outcome.stopped:
        raise typer.Exit(INTERRUPTED)


app.command(cls=Panels)(serve)


# ------------------------------------------------------------------------------------------------- the others


@app.command()
def models() -> None:
    """Lists the models, and which of them are ready."""
    from rich.table import Table

    from stream.config import presets
    from stream.doctor import missing_weights

    table = Table("model", "what it is", "licence", "size", "ready", box=None, padding=(0, 2, 1, 0))
    for name, spec in presets().items():
        missing = missing_weights(spec)
        size = f"{spec.settings.width}x{spec.settings.height}"
        table.add_row(name, spec.about, spec.licence, size, "[green]ready[/]" if missing is None else missing)
    shown().print(table)


@app.command()
def sources() -> None:
    """Lists the cameras, screens, windows and NDI sources that are here now."""
    from rich.markup import escape
    from rich.table import Table

    from stream.sources import LISTED, listed

    table = Table("source", "what it is", box=None, padding=(0, 2, 0, 0))
    for kind in LISTED:
        try:
            for found in listed(kind):
                table.add_row(escape(found.name), escape(found.title))
        except SourceError as error:
            table.add_row(f"[yellow]{kind}[/]", escape(str(error)))
    shown().print(table)


@app.command()
def doctor() -> None:
    """Says what is here, what is missing, and what to do about it."""
    from stream.doctor import examine

    console = shown()
    for finding in examine():
        mark = "[green]ok[/]     " if finding.here else "[yellow]missing[/]"
        text = finding.text.replace("[", r"\[")
        console.print(f"{mark} [bold]{finding.name}[/]: {text}", highlight=False, soft_wrap=True)


@app.command()
def bench(
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write everything there.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer frames.")] = False,
    model: Annotated[str, typer.Option(metavar="NAME|PATH", help="What to measure (SD 1.x or 2.x).")] = "builtin",
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Size of the picture (default: the model's).")] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="What runs the networks: auto, torch, openvino, tensorrt "
                                        "or tensorrt-rtx.")] = "auto",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps|gpu", help="Where they run.")] = "auto",
    precision: Annotated[str, typer.Option(metavar="auto|f32|bf16|f16|int8", help="The numbers they use.")] = "auto",
    live: Annotated[bool, typer.Option("--live", help="Measure the whole way instead: camera, browser, server, worker "
                                       "and back. The other options are left out.")] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="Measure the CUDA card here instead: SD-Turbo's and SDXL-Turbo's "
                                      "networks at full size, with random weights, on every engine.")] = False,
) -> None:  # fmt: skip
    """Measures the pipeline on this machine, stage by stage, beside plain diffusers; or live; or a card."""
    if gpu:
        import_module("tools.bench_gpu").main(quick, json_file, precision)
        return
    if live:
        import_module("tools.bench_delivery").main(quick, json_file)
        return
    spec = wanted(model, None, [], {}, size)
    import_module("tools.bench").main(spec, engine, device, precision, quick, json_file)


# ------------------------------------------------------------------------------------------------- engines

shelf = typer.Typer(
    cls=Group, no_args_is_help=True, help="TensorRT engines: built ahead of time, listed, checked, cleared."
)
app.add_typer(shelf, name="engines")


@shelf.command("list")
def engines_list() -> None:
    """Lists the engines that are kept, the last used one first."""
    from rich.table import Table

    from engines.cache import default_folder
    from stream.shelf import HEAD, kept, row

    table = Table(*HEAD, box=None, padding=(0, 2, 0, 0))
    for entry in (entries := kept(default_folder())):
        table.add_row(*row(entry))
    shown().print(table if entries else "no engines yet: livebrush engines build MODEL")


@shelf.command("build")
def engines_build(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A preset (see livebrush models), a folder, a "
                                         ".safetensors file, or a hub id.")],
    sm: Annotated[list[int] | None, typer.Option(metavar="89", help="A card to build for, by compute capability: 89 is "
                                                 "RTX 40, 120 is RTX 50; may be given again (default: the card "
                                                 "here).")] = None,
    backend: Annotated[str, typer.Option(metavar="tensorrt-rtx|tensorrt", help="tensorrt-rtx builds for RTX cards on "
                                         "any machine, tensorrt only for the card that is there.")] = "tensorrt-rtx",
    precision: Annotated[str, typer.Option(metavar="f16|bf16|f32", help="The numbers they use.")] = "f16",
    size: Annotated[str | None, typer.Option(metavar="WxH", help="The size at which they are fastest (default: the "
                                             "model's). They take 256 to 1024 a side, and this one.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=8, help="Denoising steps in flight (default: the "
                                              "model's).")] = None,
    streams: Annotated[int, typer.Option(min=1, max=64, help="Streams at once, that go through in one call.")] = 4,
    vae: Annotated[str | None, typer.Option(metavar="PATH", help="Another autoencoder: a folder or hub id.")] = None,
    loras: Annotated[list[str] | None, typer.Option("--lora", metavar="PATH:0.8", help="A LoRA and its strength; may "
                                                    "be given again.")] = None,
    fp8: Annotated[bool, typer.Option("--fp8", help="8-bit matrices in the denoiser, where nvidia-modelopt is "
                                      "installed.")] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Leave the weights out: one engine for every checkpoint and "
                                        "LoRA. On the machine with the card.")] = False,
) -> None:  # fmt: skip
    """Builds everything that MODEL needs, on any machine; copy the cache folder to the one with the card."""
    from engines.cache import default_folder
    from stream.ahead import Order, build_model
    from stream.terminal import building

    order = Order(backend, tuple(sm or ()), precision, streams, fp8, refit)  # type: ignore[arg-type]
    spec = wanted(model, vae, loras or [], {} if steps is None else {"steps": steps}, size)
    with building(told()) as tell:
        for made in build_model(spec, order, default_folder(), tell):
            typer.echo(made.told())


@shelf.command("verify")
def engines_verify() -> None:
    """Reads every file that is kept, and names what cannot be used. Exit code 2 where something is damaged."""
    from engines.cache import default_folder
    from stream.shelf import kept, unfit

    found = list(unfit(default_folder()))
    for item in found:
        typer.echo(f"{item.place.name}: {item.why}")
    sound = len(kept(default_folder())) - sum(not x.damaged for x in found)
    typer.echo(
        f"{len(found)} cannot be used (livebrush engines gc removes them)" if found else f"{sound} engines, all whole"
    )
    if any(x.damaged for x in found):
        raise typer.Exit(WRONG)


@shelf.command("gc")
def engines_gc(
    days: Annotated[float | None, typer.Option(min=0, help="Also what was not used for so many days.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every engine.")] = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Removes what cannot be used: damaged, of another version, or left by a build that was killed."""
    from engines.cache import default_folder
    from stream.shelf import remove, unfit

    found = list(unfit(default_folder(), days, everything=everything))
    for item in found:
        typer.echo(f"{item.place.name}: {item.why}")
    freed = sum(x.size for x in found) if dry else remove(default_folder(), found)
    typer.echo(f"{freed / 1e6:.1f} MB {'would be' if dry else 'are'} free")


# ------------------------------------------------------------------------------------------------- clips

app.add_typer(clip, name="clip")


def version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"livebrush {version('livebrush')}")
        except PackageNotFoundError:
            typer.echo("livebrush, not installed: pip install -e .")
        raise typer.Exit


@app.callback()
def options(
    asked: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Say the version.")] = False,
) -> None:
    """Diffusion video in real time: a camera, a video or pictures go in, painted ones come out."""


if __name__ == "__main__":
    main()
