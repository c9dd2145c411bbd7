"""What sources are tested against, all on this machine: an X display, a web server with moving pictures, an RTSP
server, and sources that do as they are told."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import select
import shutil
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import av
from media import coded
from webrig import flat

from stream.errors import SourceError
from stream.frame import Frame
from stream.sources import Source
from web import jpeg

FPS = 50


def after(seconds: float, source: Any) -> Any:
    """The first frame of an iterator that was asked for so much later."""
    time.sleep(seconds)
    return next(source)


# ------------------------------------------------------------------------------------------------- a display


@contextlib.contextmanager
def xvfb() -> Iterator[str]:
    """The name of a display of 640x400 with nothing on it."""
    reads, writes = os.pipe()
    words = ["Xvfb", "-displayfd", str(writes), "-screen", "0", "640x400x24", "-nolisten", "tcp", "-noreset"]
    process = subprocess.Popen(words, pass_fds=[writes], stderr=subprocess.DEVNULL)
    os.close(writes)
    try:
        assert select.select([reads], [], [], 10)[0], "Xvfb did not start"
        yield f":{os.read(reads, 16).decode().strip()}"
    finally:
        os.close(reads)
        process.terminate()
        process.wait(10)


NO_X = "" if shutil.which("Xvfb") else "Xvfb is not installed"


class Screen:
    """Windows of one colour on a display."""

    def __init__(self, name: str) -> None:
        from Xlib.display import Display

        self._display = Display(name)
        self.root = self._display.screen().root

    def window(self, title: str, box: tuple[int, int, int, int], colour: int) -> Any:
        """A window of that title at left, top, width, height."""
        depth = self._display.screen().root_depth
        made = self.root.create_window(*box, 0, depth, background_pixel=colour, override_redirect=True)
        made.change_property(
            self._display.intern_atom("_NET_WM_NAME"), self._display.intern_atom("UTF8_STRING"), 8, title.encode()
        )
        made.map()
        self.settle()
        return made

    def settle(self) -> None:
        """What was asked for has happened."""
        self._display.sync()
        time.sleep(0.05)  # the server paints what was uncovered

    def close(self) -> None:
        self._display.close()


# ------------------------------------------------------------------------------------------------- the web


class Web:
    """A web server on loopback. `pages` are answered as they are; `flow` is what the moving ones do."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.moved: dict[str, str] = {}
        self.asked: list[str] = []
        self.stands, self.over = threading.Event(), threading.Event()
        self.sent = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                web.asked.append(path)
                if path in web.moved:
                    self.send_response(302)
                    self.send_header("Location", web.moved[path])
                    self.end_headers()
                elif path in web.pages:
                    kind, content = web.pages[path]
                    self.send_response(200)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    with contextlib.suppress(ConnectionError):
                        self.wfile.write(content)
                elif path in ("/camera.mjpg", "/live.ts"):
                    self.send_response(200)
                    kinds = {"/camera.mjpg": "multipart/x-mixed-replace; boundary=frame", "/live.ts": "video/mp2t"}
                    self.send_header("Content-Type", kinds[path])
                    self.end_headers()
                    with contextlib.suppress(ConnectionError):
                        (web._jpegs if path == "/camera.mjpg" else web._stream)(self.wfile.write)
                else:
                    self.send_error(404)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def _jpegs(self, write: Callable[[bytes], Any]) -> None:
        for number in self._clocked():
            picture = jpeg.encode(coded(number))
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            write(head.encode() + picture + b"\r\n")

    def _stream(self, write: Callable[[bytes], Any]) -> None:
        for piece in transport_stream(self._clocked()):
            write(piece)

    def _clocked(self) -> Iterator[int]:
        """Numbers at `FPS`, until it is over, or stands."""
        for number in clocked(self.over):
            if self.stands.is_set():
                self.over.wait()
                return
            self.sent = number
            yield number


def clocked(over: threading.Event) -> Iterator[int]:
    """Numbers of 8 bits, `FPS` a second."""
    number, due = 0, time.monotonic()
    while not over.is_set():
        yield number % 256
        number, due = number + 1, due + 1 / FPS
        over.wait(max(0.0, due - time.monotonic()))


def transport_stream(numbers: Iterator[int], gop: int = 10) -> Iterator[bytes]:
    """An MPEG transport stream of `coded` pictures, a piece for each."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts", options={"flush_packets": "1", "muxdelay": "0"}) as out:
        options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "10"}
        stream = out.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.gop_size = 96, 64, "yuv420p", gop
        for count, number in enumerate(numbers):
            picture = av.VideoFrame.from_ndarray(coded(number), format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = count, Fraction(1, FPS)
            out.mux(stream.encode(picture))
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()


# ------------------------------------------------------------------------------------------------- RTSP


class Rtsp:
    """An RTSP server (RFC 2326) of one camera: MPEG-TS in RTP (RFC 2250) within the connection itself; whoever asks
    must know the password."""

    SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
    WORD = "Basic " + base64.b64encode(b"eye:open-sesame").decode()

    def __init__(self) -> None:
        self.over = threading.Event()
        self.cut = threading.Event()  # ends connections
        self.plays = 0
        rig = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):
                    rig._talk(self.rfile, self.wfile.write)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads, allow_reuse_address = True, True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.place = f"127.0.0.1:{self._server.server_address[1]}/camera"
        self.address = f"rtsp://eye:open-sesame@{self.place}"

    def close(self) -> None:
        self.over.set()
        self.cut.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _talk(self, lines: Any, write: Callable[[bytes], Any]) -> None:
        while head := self._asked(lines):
            method, fields = head
            if fields.get("authorization") != self.WORD:
                write(answer(fields, "401 Unauthorized", {"WWW-Authenticate": 'Basic realm="eye"'}))
            elif method == "PLAY":
                write(answer(fields, "200 OK", {"Session": "1", "Range": "npt=now-"}))
                self.plays += 1
                self._play(write)
                return
            else:
                write(answer(fields, "200 OK", *self._told(method, fields)))

    @staticmethod
    def _asked(lines: Any) -> tuple[str, dict[str, str]] | None:
        first = lines.readline().decode()
        fields = {}
        while line := lines.readline().decode().strip():
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        return (first.split()[0], fields) if first.strip() else None

    def _told(self, method: str, fields: dict[str, str]) -> tuple[dict[str, str], str]:
        if method == "DESCRIBE":
            return {"Content-Type": "application/sdp"}, self.SDP
        if method == "SETUP":
            return {"Session": "1", "Transport": fields["transport"].split(",")[0]}, ""
        return {"Public": "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"}, ""

    def _play(self, write: Callable[[bytes], Any]) -> None:
        self.cut.clear()
        for number, piece in enumerate(transport_stream(clocked(self.cut))):
            for at in range(0, len(piece), 7 * 188):
                load = piece[at : at + 7 * 188]
                packet = struct.pack(">BBHII", 0x80, 33, self._next(), number * 90000 // FPS, 7) + load
                write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)

    _number = 0

    def _next(self) -> int:
        self._number = (self._number + 1) & 0xFFFF
        return self._number


def answer(fields: dict[str, str], status: str, more: dict[str, str], body: str = "") -> bytes:
    lines = {"CSeq": fields.get("cseq", "0"), **more} | ({"Content-Length": str(len(body))} if body else {})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"RTSP/1.0 {status}\r\n{head}\r\n{body}".encode()


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# ------------------------------------------------------------------------------------------------- as they are told


class Told(Source):
    """A camera of one grey that does as it is told: `stuck` reads and does not come back, `lost` has come off."""

    size, rate = (64, 64), Fraction(100)
    endless = True

    def __init__(self, grey: int = 1, name: str = "told") -> None:
        self.name, self.grey = name, grey
        self.free, self.lost, self.closed = threading.Event(), threading.Event(), threading.Event()
        self.free.set()
        self.reads = 0

    def __iter__(self) -> Iterator[Frame]:
        while True:
            self.free.wait()
            if self.lost.is_set():
                raise SourceError(f"{self.name} stopped giving pictures: check its cable")
            self.reads += 1
            time.sleep(0.01)
            yield Frame(flat(self.grey), captured_at=time.monotonic())

    def close(self) -> None:
        self.closed.set()
