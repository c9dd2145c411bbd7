"""A real browser publishes by WHIP and watches by WHEP, with candidates that come after the offer, and restarts ICE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tools.chromium import Tab, page
from tools.observed import Observed
from tools.stage import Stage

pytestmark = pytest.mark.beside
SCRIPT = """
window.callers = [];
const FRAGMENT = 'application/trickle-ice-sdpfrag';

class Caller {
  async call(path, publishes) {
    this.pc = new RTCPeerConnection();
    this.pc.onicecandidate = ({candidate}) => candidate?.candidate && this.waiting.push(candidate.candidate);
    this.waiting = [];
    if (publishes) {
      const stream = await navigator.mediaDevices.getUserMedia({video: {width: 512, height: 512}, audio: true});
      for (const track of stream.getTracks()) {
        this.pc.addTransceiver(track, {direction: 'sendonly', streams: [stream]});
      }
    } else {
      this.pc.addTransceiver('audio', {direction: 'recvonly'});
      this.pc.addTransceiver('video', {direction: 'recvonly'});
    }
    await this.pc.setLocalDescription();
    const headers = {'Content-Type': 'application/sdp'};
    const answer = await fetch(path, {method: 'POST', headers, body: this.pc.localDescription.sdp});
    this.answer = await answer.text();
    if (answer.status !== 201) throw new Error(this.answer);
    [this.place, this.etag] = [answer.headers.get('Location'), answer.headers.get('ETag')];
    await this.pc.setRemoteDescription({type: 'answer', sdp: this.answer});
    while (this.pc.iceGatheringState !== 'complete') await new Promise((done) => setTimeout(done, 20));
    return this.patch(this.etag);
  }

  async patch(match) {
    const sdp = this.pc.localDescription.sdp;
    const credentials = [...new Set(sdp.match(/a=ice-(ufrag|pwd):.*/g))];
    const section = [sdp.match(/m=.*/)[0], sdp.match(/a=mid:.*/)[0]];
    const body = [...credentials, ...section, ...this.waiting.splice(0).map((c) => `a=${c}`), ''].join('\\r\\n');
    return fetch(this.place, {method: 'PATCH', headers: {'Content-Type': FRAGMENT, 'If-Match': match}, body});
  }

  async restart() {
    this.pc.restartIce();
    await this.pc.setLocalDescription();
    const told = await this.patch('*');
    const text = await told.text();
    if (told.status !== 200) throw new Error(text);
    this.etag = told.headers.get('ETag');
    const mine = (name) => text.match(new RegExp(`a=${name}:.*`))[0].trim();
    const bare = this.answer.replace(/a=(candidate|end-of-candidates).*\\r\\n/g, '');
    const sdp = bare.replace(/a=ice-ufrag:.*/g, mine('ice-ufrag')).replace(/a=ice-pwd:.*/g, mine('ice-pwd'));
    const [head, first, ...rest] = sdp.split(/(?=m=)/);
    const candidates = text.match(/a=candidate:.*\\r\\n/g).join('');
    await this.pc.setRemoteDescription({type: 'answer', sdp: [head, first + candidates, ...rest].join('')});
    return (await this.patch(this.etag)).status;
  }

  async pair() {
    const stats = [...(await this.pc.getStats()).values()];
    const transport = stats.find((s) => s.type === 'transport');
    const pair = stats.find((s) => s.id === transport.selectedCandidatePairId);
    const ufrag = this.pc.currentLocalDescription.sdp.match(/a=ice-ufrag:(.*)/)[1];
    const ends = [pair.localCandidateId, pair.remoteCandidateId].map((id) => stats.find((s) => s.id === id));
    return {ufrag, ports: ends.map((s) => s.port), state: this.pc.connectionState};
  }

  async frames(kind, key) {
    const stats = [...(await this.pc.getStats()).values()];
    return stats.find((s) => s.type === kind && s.kind === 'video')?.[key] ?? 0;
  }
}
window.Caller = Caller;
"""


@pytest.fixture
def caller(stage: Stage, server: Observed) -> Iterator[Tab]:
    """A page that is nobody's, in which WHIP and WHEP can be spoken."""
    with page(stage.browser(), f"{server.url}/view?session=nobody", script=SCRIPT) as tab:
        yield tab


def waited(tab: Tab, expression: str) -> Any:
    """The value of an asynchronous expression."""
    return tab.page.evaluate(f"async () => {expression}")


def count(tab: Tab) -> int:
    return int(waited(tab, "window.viewer.frames('inbound-rtp', 'framesDecoded')"))


def more_come(tab: Tab, frames: int = 20) -> bool:
    """Whether the viewer decodes so many more within five seconds."""
    end = count(tab) + frames
    for _ in range(50):
        if count(tab) >= end:
            return True
        tab.wait(0.1)
    return False


def test_a_browser_publishes_watches_and_restarts_ice(caller: Tab) -> None:
    for name, path, publishes in (("publisher", "/whip/browser", "true"), ("viewer", "/whep/browser", "false")):
        made = f"window.{name} = new Caller()"
        status = waited(caller, f"(await ({made}).call('{path}', {publishes})).status")
        assert status == 204, "its candidates are taken"
    assert more_come(caller)
    for name in ("viewer", "publisher"):
        before = waited(caller, f"window.{name}.pair()")
        assert waited(caller, f"window.{name}.restart()") == 204
        for _ in range(50):
            after = waited(caller, f"window.{name}.pair()")
            if after["ports"][1] != before["ports"][1]:
                break
            caller.wait(0.1)
        assert after["ufrag"] != before["ufrag"]
        assert after["ports"][1] != before["ports"][1], "the server's new socket is used"
        assert after["state"] == "connected"
        assert more_come(caller)
    deleted = "(await fetch(window.publisher.place, {method: 'DELETE'})).status"
    assert waited(caller, deleted) == 200
