/**
 * The clean picture of one session, for a Browser Source, a projector or a second screen: `/view?session=live`. It comes
 * back by itself when the session does.
 *
 * fit=contain|cover|fill   how the picture lies in the window; contain, where nothing is said
 * background=black         behind it; nothing (transparent) where nothing is said
 * muted=1                  without its sound
 * notice=0                 nothing is written on it, whatever happens; so in OBS anyway
 */

import * as api from "./api.js";
import { $, everyFrame, pause } from "./dom.js";
import { connected, gathered } from "./rtc.js";
import { whep } from "./whep.js";
import { sentence } from "./words.js";

const RETRY = 250; // ms until the next try
const WAIT = 1000; // ms between two looks whether the session is there
const STALL = 6000; // ms without a frame after which the connection is made anew
const FITS = ["contain", "cover", "fill"];
const ABSENT = [404, 409]; // no such session; nobody sends to it yet

const [picture, notice, sound] = [$("#picture"), $("#notice"), $("#sound")];
const asked = new URLSearchParams(location.search);
const id = asked.get("session") ?? "live";
const silent = asked.get("muted") === "1";
const clean = "obsstudio" in window || asked.get("notice") === "0"; // what is written would go on air
let last = 0; // when the last frame came
let leave = () => {};

if (FITS.includes(asked.get("fit"))) picture.style.objectFit = asked.get("fit");
document.body.style.background = asked.get("background") ?? "";

everyFrame(picture, () => {
  last = performance.now();
  picture.classList.add("live");
  say("");
});

function say(text) {
  notice.textContent = text;
  notice.hidden = !text || clean;
}

/** One connection, from its offer to its end. */
async function watch() {
  const peer = new RTCPeerConnection({ iceServers: await api.ice() });
  const stream = new MediaStream();
  try {
    peer.addTransceiver("video", { direction: "recvonly" });
    if (!silent) peer.addTransceiver("audio", { direction: "recvonly" });
    peer.ontrack = ({ track }) => (track.kind === "video" ? show(stream, track) : (track.onunmute = () => hear(stream, track)));
    await peer.setLocalDescription();
    await gathered(peer);
    const answer = await whep(id, peer.localDescription.sdp);
    leave = answer.leave;
    await peer.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    await connected(peer, STALL);
    await ended(peer);
  } finally {
    peer.close();
    leave();
    leave = () => {};
  }
}

function show(stream, track) {
  stream.addTrack(track);
  picture.srcObject = stream;
}

/** There is sound: with it where the browser lets a page begin to sound, else from the press of a button. */
async function hear(stream, track) {
  stream.addTrack(track); // the picture's own stream, so that both stay in step
  if (!picture.muted) return;
  picture.muted = false;
  await picture.play().catch(() => {
    picture.muted = true;
    sound.hidden = clean;
    return picture.play().catch(() => {}); // interrupted by the next connection
  });
}

sound.onclick = () => {
  picture.muted = false;
  sound.hidden = true;
};

/** Waits until the connection is lost, or no frame comes any more although the server sends some. */
async function ended(peer) {
  last = performance.now();
  while (peer.connectionState === "connected") {
    await pause(250);
    if (document.hidden || performance.now() - last < STALL) continue;
    if (await api.statistics(id).then(({ stats }) => stats.fps_out > 0, () => true)) return;
    last = performance.now(); // nobody sends to it just now
  }
}

const GONE = "Nothing is on here now. The picture comes by itself when it is.";

async function forever() {
  for (;;) {
    const wait = await watch().then(() => 0, (error) => {
      picture.classList.remove("live");
      const absent = ABSENT.includes(error.status);
      say(absent ? GONE : sentence(error.message));
      return absent ? there() : error.wait || WAIT;
    });
    await pause(Math.max(wait, RETRY));
  }
}

/** Waits for the session without offers: they are counted, and whoever sits at this machine needs some too. */
async function there() {
  do await pause(WAIT);
  while (await api.statistics(id).then(() => false, ({ status }) => status === 404));
  return 0;
}

addEventListener("pagehide", () => leave());
forever();
