"""`livebrush clip`: a timeline or flags in, a clip out. What can be wrong is said before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from stream.clips.flags import Flags, Forms, flags, options
from stream.clips.waiting import jobs
from stream.commandline import FAILED, INTERRUPTED, Group, shown, told, with_options
from stream.errors import ClipError, LivebrushError

if TYPE_CHECKING:
    from threading import Event

    from stream.clips.backend import Facts, Plan
    from stream.clips.make import Keep
    from stream.clips.progress import Show
    from stream.clips.reading import Script, Table
    from stream.clips.spread import Draft
    from stream.clips.timeline import Timeline


class Clips(Group):
    """`clip my.toml -o out.mp4` is `clip render my.toml -o out.mp4`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["render", *args])


class Render(TyperCommand):
    """The command that needs no name."""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        path, others = ctx.parent.command_path, "backends | motions | jobs  (each with --help)"
        formatter.write_usage(path, " ".join(self.collect_usage_pieces(ctx)))
        formatter.write_usage(path, others, prefix="   or: ")


clip = typer.Typer(cls=Clips, help="Clips: offline video, from a timeline or from flags.")
clip.add_typer(jobs, name="jobs")


@dataclass(frozen=True)
class Order:
    """One clip that was checked: what it is, where it goes, and what it takes."""

    timeline: Timeline
    output: Path | None
    script: Script
    plan: Plan


def with_timeline(command: Any) -> Any:
    """Gives a command one option for every plain key of a timeline."""
    return with_options(command, "given", options(), lambda _name, value: value)


@clip.command("render", cls=Render, hidden=True, no_args_is_help=True)
@with_timeline
def render(
    *,
    timeline: Annotated[Path | None, typer.Argument(metavar="TIMELINE", show_default=False, help="A .toml or .json "
                        "file; flags go over it.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="A video (.mp4 .webm .mov "
                      ".mkv), .gif, .apng, or a folder of PNGs (name/). For many clips the name may have {seed}, {row} "
                      "or a column in it.")] = None,
    motions: Annotated[list[str] | None, typer.Option("--motion", metavar="NAME|PATH", help="A motion module (see "
                       "livebrush clip motions); once more for each further segment of the clip.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Width and height (default: the model's).")] = None,
    given: dict[str, Any],
    motion_loras: Annotated[list[str] | None, typer.Option("--motion-lora", metavar="PATH:0.8", help="A motion LoRA "
                            "and its strength; may be given again.")] = None,
    loras: Annotated[list[str] | None, typer.Option("--lora", metavar="PATH:0.8", help="A LoRA and its strength; may "
                     "be given again.")] = None,
    keys: Annotated[list[str] | None, typer.Option("--key", metavar="FRAME:PROMPT", help="The prompt at a frame, from "
                    "which it travels to that of the next --key.")] = None,
    keyframes: Annotated[list[str] | None, typer.Option("--keyframe", metavar="FRAME:IMAGE", help="A picture that a "
                         "frame must look like; may be given again.")] = None,
    camera: Annotated[str | None, typer.Option(metavar="x=0.01,...", help="How the picture moves a frame: x, y (shares "
                      "of the width), zoom, rotate.")] = None,
    control: Annotated[str | None, typer.Option(metavar="PATH", help="A ControlNet or SparseCtrl.")] = None,
    control_input: Annotated[str | None, typer.Option(metavar="VIDEO", help="What the ControlNet follows.")] = None,
    control_keyframes: Annotated[list[str] | None, typer.Option("--control-keyframe", metavar="FRAME:IMAGE", help="A "
                                 "picture for the SparseCtrl.")] = None,
    control_scale: Annotated[float | None, typer.Option(help="How much the control counts.")] = None,
    own: Annotated[list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="One of the back end's own "
                   "options.")] = None,
    again: Annotated[Path | None, typer.Option("--from", metavar="CLIP", help="A clip that Livebrush made, to be "
                     "rendered again; flags go over its timeline.")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="1-8|1,5,9", help="One clip for each of these seeds.")] = None,
    batch: Annotated[Path | None, typer.Option(metavar="FILE", help="One clip for each row of a .csv or .yaml file "
                     "(docs/clips.md).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take.")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="Leave it to livebrush clip jobs run, or a server.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
) -> None:  # fmt: skip
    """Makes a clip from TIMELINE, from flags, or from both. Ctrl-C keeps what was done: the same command goes on."""
    forms = Forms(size, motions or (), motion_loras or (), loras or (), keys or (), keyframes or (), camera, control,
                  control_input, control_keyframes or (), control_scale, own or ())  # fmt: skip
    asked = flags(given, forms)
    base, script = _base(timeline, again, asked)
    orders = _orders(base, script, asked, output, batch, seeds, needed=not dry_run,
                     ready=not dry_run and not queue)  # fmt: skip
    if not dry_run:
        orders = _absent(orders, overwrite)
    if dry_run:
        _tell(orders)
    elif queue:
        _enqueue(orders, overwrite)
    elif orders:
        _render(orders, overwrite)


# ------------------------------------------------------------------------------------------------- what is asked for


def _base(path: Path | None, again: Path | None, asked: Flags) -> tuple[Table, Script]:
    """The values that flags go over, and where they come from."""
    from stream.clips.reading import Script, read

    if path is not None and again is not None:
        raise ClipError(f"both a timeline ({path}) and --from {again} are given: use one of them")
    if again is not None:
        from stream.clips import manifest

        made = manifest.read(again, {str(name) for name in asked.table}).model_dump(mode="json")
        return loosened(made, "frames" in asked.table), Script(str(again), "", asked.said)
    if path is None:
        return {}, Script("", "", asked.said)
    table, text = read(path)
    return table, Script(str(path), text, asked.said)


def loosened(table: Table, anew: bool) -> Table:
    """A resolved timeline whose segments take their prompts from it again; `anew`: they share its frames again, too."""
    segments = []
    for segment in table["segments"]:
        given = (segment["prompt"], segment["keys"])
        same = given in ((table["prompt"], []), (None, table["keys"]))
        without = ({"prompt", "keys"} if same else set()) | ({"start", "end", "fade"} if anew else set())
        segments.append({name: value for name, value in segment.items() if name not in without})
    return table | {"segments": segments}


def _orders(base: Table, script: Script, asked: Flags, output: Path | None, batch: Path | None, seeds: str | None,
            *, needed: bool, ready: bool) -> list[Order]:  # fmt: skip
    """Every clip that is asked for, checked. `needed`: they have names; `ready`: their back ends can work. ClipError
    with all that is wrong in any of them."""
    from stream.clips import spread

    numbers = spread.seeds(seeds) if seeds else []
    found = list(spread.drafts(base, script, asked, spread.rows(batch) if batch else [], numbers))
    names: list[Path | None] = [None] * len(found)
    if needed or output is not None or any(draft.output for draft in found):
        names = list(spread.outputs(found, output, "{seed}" if numbers else "{row}" if batch else ""))
    wrong: dict[str, None] = {}
    orders = []
    for draft, name in zip(found, names, strict=True):
        try:
            orders.append(_order(draft, name, ready))
        except LivebrushError as error:
            wrong[str(error)] = None
    if wrong:
        raise ClipError("\n".join(wrong))
    return orders


def _order(draft: Draft, output: Path | None, ready: bool) -> Order:
    """One clip, checked; its errors say where they are."""
    from stream.clips.checks import check, check_ready, like_input
    from stream.clips.reading import checked

    timeline = checked(like_input(draft.table), draft.script)
    try:
        plan = check(timeline)
        if ready:
            check_ready(timeline)
        if output is not None:
            check_output(timeline, plan, output)
    except ClipError as error:
        raise draft.script.told(error) from None
    return Order(timeline, output, draft.script, plan)


def check_output(timeline: Timeline, plan: Plan, output: Path) -> None:
    """ClipError where the clip cannot be written as its timeline says."""
    from fractions import Fraction

    from stream.clips.families import family
    from stream.clips.make import sound_for
    from stream.clips.write import target

    size = plan.width * timeline.output.upscale, plan.height * timeline.output.upscale
    to = target(output, output, timeline.output, Fraction(plan.fps) * timeline.output.interpolate, size)
    sound_for(timeline, family(timeline.backend), plan, to)


def _absent(orders: list[Order], overwrite: bool) -> list[Order]:
    """Those that are still to be made. SinkError where a file is in the way that was not made of this timeline."""
    from stream.clips.work import begun, made_of
    from stream.sinks import Place

    left = []
    for order in orders:
        assert order.output is not None
        if begun(order.timeline, order.output):  # may be whole, and lack its manifest: `make` knows
            left.append(order)
            continue
        if not overwrite and made_of(order.timeline, order.output):
            typer.echo(f"{order.output}: is there already, made of this timeline (--overwrite makes it again)")
            continue
        kind = "video" if order.output.suffix else "images"
        Place(kind, order.output).check(overwrite, Path(order.timeline.input) if order.timeline.input else None)
        left.append(order)
    return left


# ------------------------------------------------------------------------------------------------- what is done


def _tell(orders: list[Order]) -> None:
    """What it would take."""
    from rich.markup import escape
    from rich.table import Table as Grid

    from stream.clips.families import family
    from stream.clips.progress import summary

    table = Grid(show_header=False, box=None, padding=(0, 2, 0, 0))
    for order in orders:
        missing = family(order.timeline.backend).missing(order.timeline)
        if len(orders) > 1 or order.output is not None:
            table.add_row("clip", escape(str(order.output or f"seed {order.timeline.seed}")))
        for name, text in summary(order.plan) + ([("missing", missing)] if missing else []):
            table.add_row(name, escape(text))
    console = shown()
    console.print(table, highlight=False)
    if len(orders) > 1:
        calls = sum(order.plan.unet_calls for order in orders)
        console.print(f"{len(orders)} clips, {calls:,} UNet calls in all", highlight=False)


def _enqueue(orders: list[Order], overwrite: bool) -> None:
    """Hands them to the queue."""
    from stream.clips.queue import Order as Entry
    from stream.clips.queue import Queue

    with Queue() as waiting:
        jobs = waiting.add([Entry(o.timeline, o.output, Path.cwd(), overwrite) for o in orders])
    for job in jobs:
        typer.echo(f"{job.id}: {job.output}")
    told().print(f"{len(jobs)} waiting: livebrush clip jobs run makes them, and so does livebrush serve")


def _render(orders: list[Order], overwrite: bool) -> None:
    """Makes them, one after another. Exit code 1 where one failed, 130 where Ctrl-C stopped it."""
    from stream.clips.backend import Cancelled
    from stream.clips.make import Keep
    from stream.clips.progress import showing
    from stream.terminal import stoppable

    console, keep, failed = told(), Keep(), 0
    try:
        with stoppable() as stop:
            for number, order in enumerate(orders, 1):
                if len(orders) > 1:
                    console.print(f"{number} of {len(orders)}: {order.output}", highlight=False, markup=False)
                with showing(console) as show:
                    failed += not _made(order, show, stop, keep, overwrite, alone=len(orders) == 1)
    except Cancelled:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        keep.close()
    if failed:
        raise typer.Exit(FAILED)


def _made(order: Order, show: Show, stop: Event, keep: Keep, overwrite: bool, *, alone: bool) -> bool:
    """Makes one clip; whether it went well. Errors before the work begins are the caller's, where it is alone."""
    from stream.clips.backend import Cancelled
    from stream.clips.make import make
    from stream.clips.progress import Shown
    from stream.clips.work import begun, work

    assert order.output is not None
    watch = Shown(show, stop, order.plan)
    if begun(order.timeline, order.output):
        told().print(f"goes on where it was stopped: {order.output}", highlight=False, markup=False)
    try:
        with work(order.timeline, order.output) as folder:
            made = make(order.timeline, order.output, folder, watch, keep=keep, overwrite=overwrite)
    except Cancelled:
        _stopped(order)
        raise
    except LivebrushError as error:
        if alone and not watch.begun:
            raise order.script.told(error) if isinstance(error, ClipError) else error from None
        console = told()
        console.print(f"failed: {order.output}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return False
    size, rate = f"{made.width}x{made.height}", float(made.fps)
    typer.echo(f"{order.output}: {made.frames} frames, {size}, {rate:.6g} fps, in {made.seconds:.1f} s")
    return True


def _stopped(order: Order) -> None:
    """Says what Ctrl-C left."""
    from stream.clips.families import family
    from stream.clips.work import folder_of

    assert order.output is not None
    kept = f" (its work is in {folder_of(order.output)})" if folder_of(order.output).exists() else ""
    resumes = family(order.timeline.backend).facts.resumes
    how = "goes on where it stopped" if resumes and kept else "begins it again, and gives the same clip"
    told().print(f"stopped: {order.output} is not written: the same command {how}{kept}", highlight=False, markup=False,
                 soft_wrap=True)  # fmt: skip


# ------------------------------------------------------------------------------------------------- lists


@clip.command("backends")
def backends_list(
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False, help="One of them, with all that it "
                    "takes.")] = None,
) -> None:  # fmt: skip
    """Lists the back ends: modes, frame counts, memory, licence, and what each one lacks on this machine."""
    from rich.table import Table as Grid
    from rich.text import Text

    from stream.clips.checks import known
    from stream.clips.families import Row, table

    rows = table() if name is None else [Row(known(name).facts, known(name).missing())]
    grid = Grid(
        *(rows[0].cells() if name is None else ["", ""]), show_header=name is None, box=None, padding=(0, 2, 0, 0)
    )
    for row in rows:
        cells = row.cells() | ({"state": "missing"} if row.missing else {})
        for line in [list(cells.values())] if name is None else [*cells.items(), *details(row.facts)]:
            grid.add_row(*(Text(cell, overflow="fold") for cell in line))
    console = shown()
    console.print(grid, highlight=False)
    for row in rows:
        if row.missing:
            console.print(f"{row.facts.name} lacks {row.missing}", highlight=False, markup=False, soft_wrap=True)


def details(facts: Facts) -> list[tuple[str, str]]:
    """What is not in the table of all."""
    yes = {True: "yes", False: "no"}
    told = {"weights": facts.source, "sides": f"a multiple of {facts.multiple}", "fps": str(facts.fps),
            "steps": str(facts.steps), "guidance scale": f"{facts.guidance_scale:g}", "LoRAs": yes[facts.lora],
            "--quantise": ", ".join(facts.quantise) or "no", "--offload": ", ".join(facts.offload) or "no",
            "--cache": yes[facts.cache], "resumes": yes[facts.resumes]}  # fmt: skip
    return [*told.items(), *((f"--option {option}", about) for option, about in facts.options.items())]


@clip.command("motions")
def motions_list() -> None:
    """Lists the motion modules that ship with Livebrush. Others: a folder, a .safetensors file or a hub id."""
    from rich.markup import escape
    from rich.table import Table as Grid

    from stream.clips.modules import built_in, find

    table = Grid("motion", "what it does", "frames at once", "licence", box=None, padding=(0, 2, 0, 0))
    for module in map(find, built_in()):
        table.add_row(module.source, escape(module.facts.about), str(module.frames), escape(module.facts.licence))
    shown().print(table, highlight=False)
