"""`livebrush serve`: every option, by what it is about. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from stream.commandline import check_engine, lora, sides, told
from stream.errors import SettingsError

PAINTING = "What paints"
PICTURES = "Where pictures come from"
OUTLETS = "Where they go"
PLACE = "Where it is"
PEOPLE = "Who may come"
NETWORK = "How pictures travel"
STAGE = "Live control"
CLIPS = "Clips"
LOGS = "What it says"
VARIABLE = "LIVEBRUSH_TOKEN"
FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")


class Panels(TyperCommand):
    """A command whose help shows its options below the panels that they name, in the order in which these come."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or "Options", []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def serve(
    *,
    model: Annotated[str, typer.Option(metavar="NAME|PATH", rich_help_panel=PAINTING, help="A preset (see livebrush "
                                       "models), a folder, a .safetensors file, or a hub id.")] = "builtin",
    size: Annotated[str | None, typer.Option(metavar="WxH", rich_help_panel=PAINTING, help="Size of the painted "
                                             "picture (default: the model's).")] = None,
    loras: Annotated[list[str] | None, typer.Option("--lora", metavar="PATH:0.8", rich_help_panel=PAINTING, help="A "
                                                    "LoRA and its strength, which the page can change; may be given "
                                                    "again.")] = None,
    lora_folder: Annotated[Path | None, typer.Option(metavar="FOLDER", rich_help_panel=PAINTING, help="All LoRAs in "
                                                     "it, at strength 0 until the page changes it.")] = None,
    engine: Annotated[str, typer.Option(metavar="NAME", rich_help_panel=PAINTING, help="What runs the networks: auto, "
                                        "torch, openvino, tensorrt or tensorrt-rtx.")] = "auto",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps|gpu", rich_help_panel=PAINTING, help="Where they "
                                        "run.")] = "auto",
    precision: Annotated[str, typer.Option(metavar="auto|f32|bf16|f16|int8", rich_help_panel=PAINTING, help="The "
                                           "numbers they use.")] = "auto",
    source: Annotated[str | None, typer.Option(metavar="INPUT", rich_help_panel=PICTURES, help="A source of this "
                                               "machine, offered on the page: camera, camera:1, screen, window:TITLE, "
                                               "ndi:NAME, rtsp://..., testcard, a video, a picture or a folder; see "
                                               "livebrush sources.")] = None,
    once: Annotated[bool, typer.Option("--once", rich_help_panel=PICTURES, help="The source is a file that stops at "
                                       "its end; its last picture stays.")] = False,
    outputs: Annotated[list[str] | None, typer.Option("--output", metavar="TEXT", rich_help_panel=OUTLETS, help="Where "
                                                      "the painted picture goes as well: virtualcam, ndi:NAME, "
                                                      "srt://HOST:PORT, record:FILE.mp4 and others (livebrush doctor "
                                                      "lists them); may be given again. It is that of the session "
                                                      "'live', of --source or of whoever publishes by "
                                                      "WHIP.")] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", rich_help_panel=PLACE, help="Where it "
                                      "listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="NUMBER", rich_help_panel=PLACE, help="Its port; 0 takes a free "
                                      "one.")] = 8000,
    browser: Annotated[bool | None, typer.Option("--open/--no-open", rich_help_panel=PLACE, help="Open the page in a "
                                                 "browser (default: where there is a display).",
                                                 show_default=False)] = None,
    https: Annotated[bool, typer.Option("--https", rich_help_panel=PLACE, help="Speak HTTPS, which browsers need for "
                                        "the camera on other devices, with a certificate made by an authority of your "
                                        "own.")] = False,
    cert: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=PLACE, help="Speak HTTPS with this "
                                              "certificate (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=PLACE, help="The certificate's key "
                                             "(PEM).")] = None,
    origins: Annotated[list[str] | None, typer.Option("--origin", metavar="https://NAME", rich_help_panel=PLACE,
                                                      help="Another address at which it is to be had, behind a reverse "
                                                      "proxy; may be given again.")] = None,
    proxies: Annotated[list[str] | None, typer.Option("--proxy", metavar="ADDRESS", rich_help_panel=PLACE, help="A "
                                                      "reverse proxy, or a network of them, whose X-Forwarded-For and "
                                                      "-Proto are believed; may be given again.")] = None,
    token: Annotated[list[str] | None, typer.Option(metavar="ROLE:SECRET", rich_help_panel=PEOPLE, help="Who knows it "
                                                    "comes in, as view, control or admin (also without a role). "
                                                    "'new' makes one and says it: --token new, --token view:new. May "
                                                    "be given again; also LIVEBRUSH_TOKEN, several with blanks "
                                                    "between.")] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=PEOPLE, help="Tokens, one a "
                                                    "line.")] = None,
    jwt_key: Annotated[str | None, typer.Option(metavar="FILE|SECRET", rich_help_panel=PEOPLE, help="Take JSON Web "
                                                "Tokens with a role and an end that this key signs: a public key in "
                                                "PEM (RS256, ES256), or a shared secret (HS256).")] = None,
    minutes: Annotated[float | None, typer.Option("--session-minutes", min=0.1, metavar="NUMBER",
                                                  rich_help_panel=PEOPLE, help="How long a page may stay while others "
                                                  "wait (default: for ever).")] = None,
    limit: Annotated[int, typer.Option(min=1, max=64, rich_help_panel=PEOPLE, help="Sessions at once; whoever comes "
                                       "later waits.")] = 6,
    viewers: Annotated[int, typer.Option(min=1, rich_help_panel=PEOPLE, help="That may look on at one session, by page "
                                         "or WHEP: one encode feeds them all.")] = 50,
    offers: Annotated[int, typer.Option(min=1, rich_help_panel=PEOPLE, help="Sessions and viewers that one address may "
                                        "begin in a minute.")] = 10,
    insecure: Annotated[bool, typer.Option("--insecure", rich_help_panel=PEOPLE, help="Listen on the network, to "
                                           "anybody, without tokens.")] = False,
    udp_ports: Annotated[str | None, typer.Option(metavar="50000-50100", rich_help_panel=NETWORK, help="UDP ports for "
                                                  "pictures and sound, for a firewall to let in: one for each page "
                                                  "and viewer (default: any free ones).")] = None,
    public_ip: Annotated[str | None, typer.Option(metavar="ADDRESS", rich_help_panel=NETWORK, help="The address under "
                                                  "which others reach this machine, where a router forwards those "
                                                  "ports to it.")] = None,
    stun: Annotated[list[str] | None, typer.Option(metavar="stun:HOST:PORT", rich_help_panel=NETWORK, help="A STUN "
                                                   "server, for pages and for this one; may be given again.")] = None,
    turn: Annotated[list[str] | None, typer.Option(metavar="turn:HOST:PORT", rich_help_panel=NETWORK, help="A TURN "
                                                   "server (also turns:, and ?transport=tcp); may be given "
                                                   "again.")] = None,
    turn_secret: Annotated[str | None, typer.Option(metavar="SECRET", rich_help_panel=NETWORK,
                                                    envvar="LIVEBRUSH_TURN_SECRET", help="What it shares with that "
                                                    "server (coturn: static-auth-secret); credentials are made of it "
                                                    "for an hour.")] = None,
    osc: Annotated[str | None, typer.Option("--osc", metavar="PORT|HOST:PORT", rich_help_panel=STAGE, help="Hear OSC "
                                            "there; a port alone is of this machine only.")] = None,
    osc_out: Annotated[list[str] | None, typer.Option("--osc-out", metavar="HOST:PORT", rich_help_panel=STAGE,
                                                      help="Tell what changes there by OSC; may be given "
                                                      "again.")] = None,
    midi: Annotated[str | None, typer.Option("--midi", metavar="NAME|all", rich_help_panel=STAGE, help="Hear the MIDI "
                                             "inputs whose name has this in it.")] = None,
    link: Annotated[bool, typer.Option("--link", rich_help_panel=STAGE, help="Share the tempo by Ableton "
                                       "Link.")] = False,
    log_format: Annotated[str, typer.Option(metavar="text|json", rich_help_panel=LOGS, help="Lines to read, or an "
                                            "event a line to collect.")] = "text",
    log_level: Annotated[str | None, typer.Option(metavar="debug|info|warning|error", rich_help_panel=LOGS,
                                                  help="What is logged (default: warning, and info with "
                                                  "json).")] = None,
    clips: Annotated[bool, typer.Option("--clips/--no-clips", rich_help_panel=CLIPS, help="Make clips too: /clips and "
                                        "/v1/videos.")] = True,
    allow: Annotated[list[str] | None, typer.Option(metavar="NAME", rich_help_panel=CLIPS, help="A model, a back end "
                                                    "or a motion module that may be asked for there, beside what is "
                                                    "built in; may be given again.")] = None,
) -> None:  # fmt: skip
    """Opens a page on which your camera, your screen or a file is painted live. Ctrl-C stops it."""
    from web import serve as server
    from web.config import Access, Https, Logs
    from web.network import EPHEMERAL, Network, ports

    check_engine(engine, precision)
    pixels = sides(size) if size else None
    known = [*(loras or []), *(loras_in(lora_folder) if lora_folder else [])]
    config = server.Config(
        model=model,
        host=host,
        port=port,
        source=f"once:{source}" if source and once else source,
        outputs=tuple(outputs or []),
        size=(pixels["width"], pixels["height"]) if pixels else None,
        engine=engine,
        device=device,
        precision=precision,
        limit=limit,
        viewers=viewers,
        offers_per_minute=offers,
        browser=browser,
        insecure=insecure,
        loras=tuple(lora(text) for text in known),
        control=server.Control(osc=osc, osc_out=tuple(osc_out or ()), midi=midi, link=link),
        clips=clips,
        clips_allow=tuple(allow or []),
        network=Network(
            stun=tuple(stun or []),
            turn=tuple(turn or []),
            turn_secret=turn_secret,
            ports=ports(udp_ports) if udp_ports else EPHEMERAL,
            public_ip=public_ip,
        ),
        access=Access(tokens_given(token, token_file), jwt_key, tuple(origins or []), tuple(proxies or []), minutes),
        https=Https(https, cert, key),
        logs=Logs(one_of("log-format", log_format, FORMATS), one_of("log-level", log_level, LEVELS)),
    )
    server.serve(config, typer.echo, told())


def tokens_given(given: Sequence[str] | None, file: Path | None) -> tuple[str, ...]:
    """The tokens of the command line, of a file, and of the environment."""
    from web.people import tokens_in

    return (*(given or ()), *(tokens_in(file) if file is not None else ()), *os.environ.get(VARIABLE, "").split())


def one_of(name: str, value: Any, known: Sequence[str]) -> Any:
    """An option's value; SettingsError where it is given and not among those that are known."""
    if value not in (None, *known):
        raise SettingsError(f"{name} {value[:40]!r} is unknown: use {', '.join(known[:-1])} or {known[-1]}")
    return value


def loras_in(folder: Path) -> list[str]:
    """The LoRAs in a folder, each at strength 0."""
    found = sorted(str(path) for path in folder.expanduser().glob("*.safetensors"))
    if not found:
        raise SettingsError(f"lora folder {folder} has no .safetensors files: name the folder that they lie in")
    return [f"{path}:0" for path in found]
