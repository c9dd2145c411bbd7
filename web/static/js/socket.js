/** The way to the server where WebRTC does not get through: pictures as JPEG over a WebSocket. */

import { address, refusal, ServerError } from "./api.js";
import { everyFrame, wallClock } from "./dom.js";
import { resize } from "./fit.js";

const CONNECT = 8000; // ms
const HEADER = 16; // bytes: sequence number, 0, capture time in ms, little-endian
const FLYING = 6; // pictures under way at most, so that a slow network never makes a queue
const LAPSED = 500; // ms after which a picture under way no longer counts: the server may skip it
const CLOSE = 1; // ms: the server's clock ticks are coarser than ours

/** The same shape as RtcLink; `told.drawn(captured)` is called when a painted picture is on `canvas`. */
export class SocketLink {
  transport = "websocket";
  id = null;
  #number = 0;
  #flying = []; // capture times of the pictures under way
  #encoding = false;
  #bytes = [0, 0]; // sent, received

  constructor({ source, settings, shape, ticket, camera, canvas, told }) {
    Object.assign(this, { source, settings, shape, ticket, camera, canvas, told });
    this.over = new Promise((resolve) => (this.finish = resolve));
    this.encoder = new Worker(new URL("./jpeg.js", import.meta.url), { type: "module" });
    this.screen = canvas.getContext("2d", { alpha: false });
  }

  /** Resolves with the server's welcome; ServerError where it refuses. */
  async open() {
    const place = address("api/sessions/ws");
    place.protocol = place.protocol.replace("http", "ws");
    this.socket = new WebSocket(place);
    this.socket.binaryType = "arraybuffer";
    const welcome = await this.#greeted();
    if (this.socket.readyState !== WebSocket.OPEN) return welcome; // nobody waits any more
    this.id = welcome.session;
    this.quit = this.source.track ? everyFrame(this.camera, (now, data) => this.#offer(now, data)) : () => {};
    return welcome;
  }

  #greeted() {
    const { socket, settings, ticket, source } = this;
    return new Promise((resolve, reject) => {
      const lost = () => reject(new ServerError("The server does not answer."));
      const timer = setTimeout(lost, CONNECT);
      socket.onopen = () => this.send({ type: "hello", settings, ticket, source: source.name });
      socket.onclose = () => (clearTimeout(timer), lost(), this.finish("The connection was closed."));
      socket.onmessage = ({ data }) => {
        const said = typeof data === "string" ? JSON.parse(data) : {};
        if (said.type === "refused") return reject(refusal(said.status, said));
        if (said.type !== "hello") return;
        clearTimeout(timer);
        socket.onmessage = (event) => this.#received(event.data);
        this.told.message(said);
        resolve(said);
      };
    });
  }

  #received(data) {
    if (typeof data === "string") return this.told.message(JSON.parse(data));
    this.#bytes[1] += data.byteLength;
    const captured = new DataView(data).getFloat64(8, true);
    this.#flying = this.#flying.filter((at) => at > captured + CLOSE);
    const waits = this.next !== undefined;
    this.next = data; // newest wins while one is being decoded
    if (!waits) this.#show();
  }

  async #show() {
    for (let data; (data = this.next) !== null; ) {
      this.next = null;
      await this.#draw(data);
    }
    this.next = undefined;
  }

  async #draw(data) {
    const captured = new DataView(data).getFloat64(8, true);
    const image = await createImageBitmap(new Blob([data.slice(HEADER)], { type: "image/jpeg" })).catch(() => null);
    if (!image) return;
    resize(this.canvas, [image.width, image.height]);
    this.screen.drawImage(image, 0, 0);
    image.close();
    requestAnimationFrame((now) => this.told.drawn(captured, now));
  }

  /** Sends the camera's newest picture, unless an older one is still on its way into the network. */
  async #offer(now, { captureTime }) {
    this.#flying = this.#flying.filter((at) => at > wallClock(now) - LAPSED);
    if (this.#encoding || this.#flying.length >= FLYING || this.socket.bufferedAmount > 0) return;
    this.#encoding = true;
    const jpeg = await this.#jpeg();
    this.#encoding = false;
    if (jpeg && this.socket.readyState === WebSocket.OPEN) this.#put(jpeg, wallClock(captureTime ?? now));
  }

  async #jpeg() {
    const image = await createImageBitmap(this.camera).catch(() => null); // no picture yet
    if (!image) return null;
    const { width, height, fit } = this.shape();
    const answer = new Promise((resolve) => (this.encoder.onmessage = ({ data }) => resolve(data)));
    this.encoder.postMessage({ image, shape: { width, height, fit } }, [image]);
    return answer;
  }

  #put(jpeg, captured) {
    const message = new Uint8Array(HEADER + jpeg.byteLength);
    const header = new DataView(message.buffer);
    header.setUint32(0, (this.#number += 1), true);
    header.setFloat64(8, captured, true);
    message.set(new Uint8Array(jpeg), HEADER);
    this.#flying.push(captured);
    this.#bytes[0] += message.byteLength;
    this.socket.send(message);
  }

  async replace(source) {
    if (!source.track || !this.source.track) return false;
    this.source = source; // the camera's element shows it already
    return true;
  }

  reshape() {} // every picture asks for its shape

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  close(reason = "closed") {
    this.quit?.();
    this.encoder.terminate();
    if (this.socket) this.socket.onclose = null;
    this.socket?.close();
    this.finish(reason);
  }

  async measure() {
    const now = performance.now();
    const [sent, received] = this.#bytes;
    const [before, up, down] = this.before ?? [now, sent, received];
    this.before = [now, sent, received];
    const rate = (bytes) => (now > before ? (bytes * 8) / (now - before) : 0);
    const { width, height } = this.canvas;
    return { width, height, codec: "JPEG", up_kbps: rate(sent - up), down_kbps: rate(received - down) };
  }
}
