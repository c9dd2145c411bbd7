"""The line of the loss rows: it loses and delays what it should, leaves TCP alone, and leaves nothing behind."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest

from tools import lossy
from tools.lossy import Line, NoLineError, Weather, at, hindrance, line
from tools.relay import Fate

REASON = hindrance()
needs_line = pytest.mark.skipif(bool(REASON), reason=f"{REASON} (CI has what it takes)")
COUNT = 2000


def datagram(kind: int = 17) -> bytes:
    return bytes(12) + b"\x08\x00" + bytes(9) + bytes([kind]) + bytes(40)


@contextmanager
def ends(it: Line) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A UDP socket here and one at the far end, connected to each other."""
    here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    here.bind((it.outside, 0))
    far = at(it.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with here, far:
        far.bind((it.inside, 0))
        for one, other in ((here, far), (far, here)):
            one.connect(other.getsockname())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            one.settimeout(0.3)
        yield here, far


def arrived(sender: socket.socket, receiver: socket.socket, count: int = COUNT) -> list[tuple[int, float]]:
    """Numbers of the datagrams that arrive of so many, in that order, and for how long each was under way."""
    sent, found = [], []

    def send() -> None:
        for number in range(count):
            sent.append(time.monotonic())
            sender.send(number.to_bytes(4, "big") + bytes(200))
            if number % 20 == 19:
                time.sleep(0.004)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        while True:
            number = int.from_bytes(receiver.recv(300)[:4], "big")
            found.append((number, time.monotonic() - sent[number]))
    except TimeoutError:
        thread.join()
        return found


def left_behind() -> list[str]:
    """Namespaces and interfaces of lines."""
    said = [subprocess.run(["ip", *what], capture_output=True, text=True, check=True).stdout
            for what in (["netns"], ["-o", "link"])]  # fmt: skip
    mine = f"lb{lossy.os.getpid()}"
    return [row for text in said for row in text.splitlines() if mine in row]


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "this is darwin" in hindrance()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(lossy.os, "geteuid", lambda: 1000)
    assert hindrance() == "network namespaces are made by root"
    monkeypatch.setattr(lossy.os, "geteuid", lambda: 0)
    monkeypatch.setattr(lossy.shutil, "which", lambda tool: None if tool == "nft" else tool)
    assert hindrance() == "nft is missing: apt install nftables"
    with pytest.raises(NoLineError, match="apt install nftables"), line(Weather()):
        pass


def test_the_relays_losses_are_those_of_its_seed_and_of_datagrams_alone() -> None:
    fates = [Fate(0.1, 25, 10, seed=7) for _ in range(2)]
    one, other = ([fate.delay_s(datagram()) for _ in range(5000)] for fate in fates)
    assert one == other
    kept = [delay for delay in one if delay is not None]
    assert 0.08 < 1 - len(kept) / 5000 < 0.12
    assert 0.025 <= min(kept) < 0.026
    assert 0.034 < max(kept) <= 0.035
    assert {fates[0].delay_s(datagram(kind=6)) for _ in range(100)} == {0.0}
    assert random.Random(7).random() == random.Random(7).random()


@needs_line
@pytest.mark.parametrize("loss", [0.05, 0.2])
def test_nft_loses_that_share_each_way(loss: float) -> None:
    with line(Weather(loss=loss)) as it, ends(it) as (here, far):
        for sender, receiver in ((here, far), (far, here)):
            found = arrived(sender, receiver)
            spread = 4 * (loss * (1 - loss) / COUNT) ** 0.5
            assert abs(1 - len(found) / COUNT - loss) < spread
            assert [number for number, _ in found] == sorted(number for number, _ in found)
    assert left_behind() == []


@needs_line
def test_the_relay_delays_and_lets_some_overtake_others() -> None:
    with line(Weather(loss=0.05, delay_ms=25, jitter_ms=10, seed=3)) as it, ends(it) as (here, far):
        found = arrived(far, here)
        assert abs(1 - len(found) / COUNT - 0.05) < 0.02
        under_way = sorted(way for _, way in found)
        assert under_way[0] >= 0.025
        assert under_way[len(found) // 2] < 0.08
        assert [number for number, _ in found] != sorted(number for number, _ in found)
    assert left_behind() == []


class Quiet(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers["Host"].encode() * 10_000)

    def log_message(self, *words: object) -> None:
        pass


@needs_line
@pytest.mark.parametrize("weather", [Weather(loss=0.9), Weather(loss=0.9, delay_ms=1)])
def test_through_the_door_a_server_here_is_one_there_and_loses_nothing(weather: Weather) -> None:
    with HTTPServer(("127.0.0.1", 0), Quiet) as server, line(weather) as it:
        port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with it.door(port):
            asked = f"import urllib.request as u; print(len(u.urlopen('http://127.0.0.1:{port}/').read()))"
            for _ in range(3):
                said = subprocess.run(
                    it.command(sys.executable, "-c", asked), capture_output=True, text=True, timeout=20
                )
                assert int(said.stdout) == len(f"127.0.0.1:{port}") * 10_000, said.stderr
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/").status == 200
        server.shutdown()
    assert left_behind() == []


@needs_line
def test_a_line_that_fails_half_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lossy, "routed", lambda *_: lossy.run("ip", "link", "set", "no-such-device", "up"))
    with pytest.raises(NoLineError, match="no-such-device"), line(Weather(loss=0.1)):
        pass
    assert left_behind() == []
