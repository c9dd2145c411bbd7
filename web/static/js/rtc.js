/** The way to the server over WebRTC: pictures as video tracks, messages over the data channel "control". */

import * as api from "./api.js";
import { pause } from "./dom.js";
import { RATE } from "./sources.js";

const CONNECT = 4000; // ms until another way is tried
const HANDSHAKE = 6000; // more, where packets get through
const GATHER = 500;
const BATCH = 20; // ms in which the candidates of UDP come, one after another

/** WebRTC does not get through from here. */
export class NoWay extends Error {}

/**
 * One connection. `settings` are those that differ from the model's, `shape()` gives `{width, height}`.
 * `told.message(object)` gets the server's messages, `told.picture(stream)` the painted video. `over` resolves with the
 * reason when the connection has ended, whoever ended it.
 */
export class RtcLink {
  transport = "webrtc";
  id = null;

  constructor({ source, settings, shape, ticket, codec, told, iceServers = [] }) {
    Object.assign(this, { source, settings, shape, ticket, told });
    this.over = new Promise((resolve) => (this.finish = resolve));
    this.greeted = new Promise((resolve) => (this.greet = resolve));
    this.peer = new RTCPeerConnection({ iceServers });
    this.control = this.peer.createDataChannel("control");
    this.video = this.#video(codec);
    this.#listen();
  }

  #video(codec) {
    const direction = this.source.track ? "sendrecv" : "recvonly";
    const streams = this.source.stream ? [this.source.stream] : [];
    const made = this.peer.addTransceiver(this.source.track ?? "video", { direction, streams });
    if (codec) prefer(made, codec);
    if ("jitterBufferTarget" in made.receiver) made.receiver.jitterBufferTarget = 0; // ms: newest first
    return made;
  }

  #listen() {
    const { peer, control } = this;
    peer.ontrack = ({ track }) => this.told.picture(new MediaStream([track]));
    control.onmessage = ({ data }) => this.#heard(JSON.parse(data));
    control.onclose = () => this.close("The connection was closed.");
    peer.addEventListener("connectionstatechange", () => {
      if (peer.connectionState === "failed") this.close("The connection was lost.");
    });
  }

  #heard(message) {
    if (message.type === "hello") this.greet(message);
    this.told.message(message);
  }

  /** Resolves when connected; NoWay where no packet gets through, ServerError where the server refuses. */
  async open() {
    await this.peer.setLocalDescription();
    await gathered(this.peer);
    const { sdp, type } = this.peer.localDescription;
    return this.source.joins ? this.#join({ sdp, type }) : this.#begin({ sdp, type });
  }

  /** A session of the page's own; the server's answer, with what it begins with. */
  async #begin(offer) {
    const { settings, ticket, source } = this;
    const answer = await api.open({ ...offer, settings, ticket, source: source.name });
    this.id = answer.id;
    if (this.peer.signalingState === "closed") api.end(this.id).catch(() => {}); // nobody waits any more
    await this.peer.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    await Promise.all([this.#tune(), connected(this.peer)]);
    return answer;
  }

  /** A session that is there already: what it is comes with the first message. */
  async #join(offer) {
    const { joins, may } = this.source;
    const { sdp } = await api.watch(joins, { ...offer, ...(may ? { control: true } : {}) });
    await this.peer.setRemoteDescription({ type: "answer", sdp });
    await connected(this.peer);
    const welcome = await Promise.race([this.greeted, pause(CONNECT)]);
    if (!welcome) throw new NoWay("The server says nothing.");
    this.id = joins;
    return welcome;
  }

  /** Never a smaller picture than the settings ask for, and room enough for a sharp one. */
  async #tune() {
    const { sender } = this.video;
    const asked = sender.getParameters();
    if (!this.source.track || !asked.encodings.length) return;
    asked.degradationPreference = "maintain-resolution";
    asked.encodings[0].maxBitrate = bitrate(this.shape());
    asked.encodings[0].maxFramerate = RATE;
    await sender.setParameters(asked).catch(() => {}); // the browser's own choice holds
  }

  /** Another source without a new connection; false where that cannot be. */
  async replace(source) {
    if (!source.track || !this.source.track) return false;
    this.source = source;
    await this.video.sender.replaceTrack(source.track);
    return true;
  }

  /** The settings have another size. */
  reshape() {
    this.#tune();
  }

  send(message) {
    const put = () => this.control.send(JSON.stringify(message));
    if (this.control.readyState === "open") put();
    if (this.control.readyState === "connecting") this.control.addEventListener("open", put, { once: true });
  }

  close(reason = "closed") {
    this.control.onclose = null;
    this.peer.close();
    this.finish(reason);
  }

  /** What the browser knows about the way: `{width, height, codec, up_kbps, down_kbps, rtt_ms, loss, fps}`. */
  async measure() {
    const report = [...(await this.peer.getStats()).values()];
    return figures(report, (this.before ??= {}));
  }
}

/** Bits a second for a picture of that size at 30 fps. */
export const bitrate = ({ width, height }) => Math.min(8e6, Math.max(2.5e6, width * height * 15));

function prefer(transceiver, codec) {
  const known = RTCRtpReceiver.getCapabilities("video")?.codecs ?? [];
  const is = (name) => (c) => c.mimeType.toLowerCase() === `video/${name}`;
  const wanted = known.filter(is(codec));
  if (wanted.length) transceiver.setCodecPreferences([...wanted, ...known.filter(is("rtx"))]);
}

/**
 * Waits for the candidates, since the server takes them with the offer only. Without STUN and TURN those of UDP come at once;
 * Chromium's of TCP, a tenth of a second later, are of no use to the server.
 */
export function gathered(peer) {
  const direct = !peer.getConfiguration().iceServers?.length;
  return new Promise((resolve) => {
    const done = () => peer.iceGatheringState === "complete" && resolve();
    peer.addEventListener("icegatheringstatechange", done);
    if (direct) peer.addEventListener("icecandidate", () => setTimeout(resolve, BATCH), { once: true });
    setTimeout(resolve, GATHER);
    done();
  });
}

/**
 * Waits for the connection; NoWay where no packet gets through in time. Once some do, the handshake has longer: where one
 * packet in five is lost it may need that, and no other way is better there.
 */
export function connected(peer, limit = CONNECT) {
  return new Promise((resolve, reject) => {
    const fail = () => reject(new NoWay("WebRTC does not get through."));
    const late = () => (through(peer) ? (timer = setTimeout(fail, HANDSHAKE)) : fail());
    let timer = setTimeout(late, limit);
    const look = () => {
      if (peer.connectionState === "connected") resolve(clearTimeout(timer));
      if (["failed", "closed"].includes(peer.connectionState)) fail(clearTimeout(timer));
    };
    peer.addEventListener("connectionstatechange", look);
    look();
  });
}

const through = ({ iceConnectionState }) => ["connected", "completed"].includes(iceConnectionState);

// ------------------------------------------------------------------------------------------------ getStats

function figures(report, before) {
  const find = (type, test = () => true) => report.find((x) => x.type === type && test(x)) ?? {};
  const [inbound, outbound] = [find("inbound-rtp"), find("outbound-rtp")];
  const pair = find("candidate-pair", (x) => x.nominated && x.state === "succeeded");
  const codec = report.find((x) => x.id === inbound.codecId)?.mimeType ?? "";
  return {
    width: inbound.frameWidth, height: inbound.frameHeight, fps: inbound.framesPerSecond ?? 0,
    codec: codec.replace("video/", ""), rtt_ms: (pair.currentRoundTripTime ?? 0) * 1000,
    sent_width: outbound.frameWidth, sent_height: outbound.frameHeight, sent_fps: outbound.framesPerSecond ?? 0,
    up_kbps: rate(before, "up", outbound.bytesSent, outbound.timestamp) * 8,
    down_kbps: rate(before, "down", inbound.bytesReceived, inbound.timestamp) * 8,
    loss: share(before, inbound),
  };
}

/** Growth of a counter per millisecond since the last look (bytes per ms are kilobytes per second). */
function rate(before, name, count = 0, now = 0) {
  const [then, at] = before[name] ?? [count, now];
  before[name] = [count, now];
  return now > at ? (count - then) / (now - at) : 0;
}

/** The share of packets that got lost since the last look. */
function share(before, { packetsLost = 0, packetsReceived = 0 }) {
  const [lost, got] = before.packets ?? [0, 0];
  before.packets = [packetsLost, packetsReceived];
  const all = packetsLost - lost + packetsReceived - got;
  return all > 0 ? Math.max(0, packetsLost - lost) / all : 0;
}
