/** Snapshots and recordings of what is painted, mirrored as it is shown. */

import { download, everyTick, make, size } from "./dom.js";
import { withText } from "./png.js";

const RATE = 30;
const BITRATE = 8_000_000;
const TYPES = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm", "video/mp4"];

/** `shown()` gives the painted picture's element and how it is turned: `[element, mirrored, flipped]`. */
export function copy(shown, canvas) {
  const [element, mirrored, flipped] = shown();
  const [width, height] = size(element);
  if (!width) return null;
  canvas ??= make("canvas", { width, height });
  const context = canvas.getContext("2d");
  const { width: w, height: h } = canvas;
  context.setTransform(mirrored ? -1 : 1, 0, 0, flipped ? -1 : 1, mirrored ? w : 0, flipped ? h : 0);
  context.drawImage(element, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** A file name that says when and what: `livebrush-2026-11-20-18.30.05-oil-painting`. */
function title({ prompt }) {
  const words = prompt.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40);
  const now = new Date();
  const local = new Date(now - now.getTimezoneOffset() * 60_000).toISOString();
  return ["livebrush", local.slice(0, 10), local.slice(11, 19).replaceAll(":", "."), words].filter(Boolean).join("-");
}

/** Saves a PNG that carries `facts` (settings, model) as JSON; gives back its name, or null with nothing to save. */
export async function snapshot(shown, settings, facts) {
  const canvas = copy(shown);
  if (!canvas) return null;
  const png = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const name = `${title(settings)}.png`;
  download(await withText(png, "livebrush", JSON.stringify({ settings, ...facts })), name);
  return name;
}

/** Records through a canvas, so that a new size, another source or a lost connection does not end the film. */
export class Recorder {
  #recorder = null;

  get on() {
    return this.#recorder !== null;
  }

  /** `told(seconds)` once a second; false where the browser cannot, or nothing is painted. */
  start(shown, told) {
    const type = globalThis.MediaRecorder && TYPES.find((x) => MediaRecorder.isTypeSupported(x));
    const canvas = type && copy(shown);
    if (!canvas) return false;
    const [parts, began] = [[], performance.now()];
    this.#recorder = new MediaRecorder(canvas.captureStream(RATE), { mimeType: type, videoBitsPerSecond: BITRATE });
    this.#recorder.ondataavailable = ({ data }) => parts.push(data);
    this.quit = everyTick(RATE, () => copy(shown, canvas));
    this.timer = setInterval(() => told(Math.round((performance.now() - began) / 1000)), 1000);
    this.done = new Promise((resolve) => (this.#recorder.onstop = () => resolve(new Blob(parts, { type }))));
    this.#recorder.start(1000);
    told(0);
    return true;
  }

  /** Saves the film; gives back its name. */
  async stop(settings) {
    const recorder = this.#recorder;
    this.#recorder = null;
    this.quit();
    clearInterval(this.timer);
    recorder.stop();
    recorder.stream.getTracks().forEach((track) => track.stop());
    const film = await this.done;
    const name = `${title(settings)}.${film.type.includes("mp4") ? "mp4" : "webm"}`;
    download(film, name);
    return name;
  }
}
