/** The clean picture of one session: `/view?session=ID`. It comes back by itself when the session does. */

import * as api from "./api.js";
import { $, everyFrame, pause } from "./dom.js";
import { connected, gathered } from "./rtc.js";
import { sentence } from "./words.js";

const WAIT = 1000; // ms between two tries
const STALL = 6000; // ms without a frame after which the connection is made anew

const [picture, notice] = [$("#picture"), $("#notice")];
const id = new URLSearchParams(location.search).get("session") ?? "";
let last = 0; // when the last frame came

everyFrame(picture, () => {
  last = performance.now();
  picture.classList.add("live");
  say("");
});

/** Browser sources of OBS show no notice: they would go on air. */
function say(text) {
  notice.textContent = text;
  notice.hidden = !text || "obsstudio" in window;
}

/** One connection, from its offer to its end. */
async function watch() {
  const peer = new RTCPeerConnection();
  try {
    peer.addTransceiver("video", { direction: "recvonly" });
    peer.ontrack = ({ track }) => (picture.srcObject = new MediaStream([track]));
    await peer.setLocalDescription();
    await gathered(peer);
    const answer = await api.watch(id, { sdp: peer.localDescription.sdp, type: "offer" });
    await peer.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    await connected(peer, STALL);
    await ended(peer);
  } finally {
    peer.close();
  }
}

/** Waits until the connection is lost, or no frame comes any more. */
async function ended(peer) {
  last = performance.now();
  const moves = () => document.hidden || performance.now() - last < STALL;
  while (peer.connectionState === "connected" && moves()) await pause(250);
}

const GONE = "This session is not there (any more): take the address from the page.";

async function forever() {
  for (;;) {
    await watch().catch((error) => {
      picture.classList.remove("live");
      say(error.status === 404 ? GONE : sentence(error.message));
    });
    await pause(WAIT);
  }
}

if (id) forever();
else say("The address lacks the session: use /view?session=ID, with the ID of a running page.");
