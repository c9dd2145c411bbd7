/**
 * What is painted: the camera, the screen, a file, the test card, a source of the server, or what another session has.
 *
 * A source has a `stream` for the page's own video (null: the server has the picture), says when it `ended` by itself,
 * and `shape`s itself to the settings' width, height and fit.
 */

import { trueColours } from "./colours.js";
import { everyFrame, everyTick, size } from "./dom.js";
import { lay, resize } from "./fit.js";
import { drawCard } from "./testcard.js";

export const RATE = 30;
/** A source could not be opened; the message says what to do. `waits`: it may, as soon as a device is plugged in. */
export class SourceError extends Error {
  constructor(message, waits = false) {
    super(message);
    this.waits = waits;
  }
}

class Source {
  ended = () => {};
  joins = null; // the session that is joined, where there is no source of one's own

  /** What the server calls it. */
  get name() {
    return this.stream ? "page" : "server";
  }

  /** `given` is what the browser gave, where `stream` is made of it. */
  constructor(kind, stream, given = stream) {
    this.kind = kind;
    this.stream = stream;
    this.track = stream?.getVideoTracks()[0] ?? null;
    this.given = given?.getVideoTracks()[0] ?? null;
    if (this.track) this.track.contentHint = "motion";
    this.given?.addEventListener("ended", () => this.ended());
  }

  async shape() {}

  stop() {
    this.given?.stop();
    this.track?.stop();
  }
}

// ------------------------------------------------------------------------------------------------ camera, screen

class Camera extends Source {
  get device() {
    return this.track.getSettings().deviceId ?? "";
  }

  /** Selfie cameras are shown as a mirror shows them. */
  get mirrored() {
    return this.track.getSettings().facingMode !== "environment";
  }

  async shape(settings) {
    await this.track.applyConstraints(cameraConstraints(settings, this.device)).catch(() => {}); // keeps its shape
  }
}

/** Where the settings crop, the camera cuts its picture to the session's shape, so that nothing is sent in vain. */
function cameraConstraints({ width, height, fit }, device) {
  const shape = fit === "crop" ? { width: { ideal: width }, height: { ideal: height }, resizeMode: "crop-and-scale" }
    : { height: { ideal: height } };
  const which = device ? { deviceId: { exact: device } } : { facingMode: { ideal: "user" } };
  return { ...shape, ...which, frameRate: { ideal: RATE, max: RATE } };
}

async function openCamera(settings, { device }) {
  const media = devices();
  const ask = (id) => media.getUserMedia({ video: cameraConstraints(settings, id), audio: false });
  try {
    return new Camera("camera", await ask(device));
  } catch (error) {
    if (device && ["OverconstrainedError", "NotFoundError"].includes(error.name)) return openCamera(settings, {});
    throw new SourceError(cameraTrouble(error), ["NotFoundError", "NotReadableError"].includes(error.name));
  }
}

const NO_DEVICES =
  "Browsers give camera and screen to https and localhost only: open this page by one of them, or take a file or the " +
  "test card.";

function devices() {
  if (navigator.mediaDevices) return navigator.mediaDevices;
  throw new SourceError(NO_DEVICES);
}

const AGAIN = "then press Camera again, or take the test card.";
const TROUBLE = {
  NotAllowedError: `The camera was refused. Allow it by the icon in the address bar, ${AGAIN}`,
  NotFoundError: "No camera was found. Plug one in and it starts by itself, or take the test card.",
  NotReadableError: `The camera is in use by another program. Close that, ${AGAIN}`,
  AbortError: `The camera did not start. Unplug it and plug it in again, ${AGAIN}`,
};

function cameraTrouble({ name, message }) {
  const bySystem = name === "NotAllowedError" && /system/i.test(message);
  if (bySystem) return `The system refuses the camera to this browser. Allow it in its privacy settings, ${AGAIN}`;
  return TROUBLE[name] ?? `The camera did not start (${name}). Wait a moment, ${AGAIN}`;
}

/** The cameras that are there: `{id, label}`; without labels before the first permission. */
export async function cameras() {
  const found = await (navigator.mediaDevices?.enumerateDevices() ?? []);
  const videos = found.filter(({ kind }) => kind === "videoinput");
  return videos.map(({ deviceId, label }, k) => ({ id: deviceId, label: label || `Camera ${k + 1}` }));
}

class Screen extends Source {
  constructor(captured) {
    super("screen", trueColours(captured), captured);
  }

  async shape({ width, height }) {
    await this.given.applyConstraints(screenConstraints(width, height)).catch(() => {}); // keeps its shape
  }
}

/** No more pixels than the settings can use: a wide screen is cut to the session's shape by its height. */
function screenConstraints(width, height) {
  const tall = Math.max(360, height);
  return { height: { max: tall }, width: { max: Math.round(Math.max(width, tall * 2.4)) }, frameRate: { max: RATE } };
}

async function openScreen({ width, height }) {
  const media = devices();
  if (!media.getDisplayMedia) throw new SourceError("This browser cannot share the screen: take another source.");
  try {
    return new Screen(await media.getDisplayMedia({ video: screenConstraints(width, height), audio: false }));
  } catch (error) {
    const refused = error.name === "NotAllowedError";
    throw new SourceError(refused ? "No screen was chosen. Press Screen and choose a window or a tab."
      : `The screen could not be shared (${error.name}). Try a window instead of the whole screen.`);
  }
}

// ------------------------------------------------------------------------------------------------ drawn ones

/** A source that draws: on a canvas of the session's size. */
class Drawn extends Source {
  constructor(kind, settings) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [settings.width, settings.height];
    const context = canvas.getContext("2d", { alpha: false });
    super(kind, canvas.captureStream(RATE));
    Object.assign(this, { canvas, context, settings, quit: () => {} });
  }

  async shape(settings) {
    this.settings = settings;
    resize(this.canvas, [settings.width, settings.height]);
    this.draw();
  }

  draw() {}

  stop() {
    this.quit();
    super.stop();
  }
}

class TestCard extends Drawn {
  constructor(settings) {
    super("testcard", settings);
    this.began = performance.now();
    this.draw();
    this.quit = everyTick(RATE, () => this.draw());
  }

  draw() {
    drawCard(this.context, (performance.now() - this.began) / 1000);
  }
}

class Still extends Drawn {
  constructor(settings, image, name) {
    super("file", settings);
    Object.assign(this, { image, name });
    this.quit = everyTick(RATE, () => this.draw()); // a still picture moves with the settings
  }

  draw() {
    lay(this.context, this.image, this.settings.fit, [this.image.width, this.image.height]);
  }
}

class Movie extends Drawn {
  constructor(settings, video, name) {
    super("file", settings);
    Object.assign(this, { video, name });
    this.quit = everyFrame(video, () => this.draw());
  }

  draw() {
    lay(this.context, this.video, this.settings.fit, size(this.video));
  }

  stop() {
    super.stop();
    this.video.pause();
    URL.revokeObjectURL(this.video.src);
  }
}

// ------------------------------------------------------------------------------------------------ without pictures

/** A source of the server's machine: the one that it was started with, or the one that `name` says. */
class Remote extends Source {
  #name;

  constructor({ name = "server" }) {
    super("server", null);
    this.#name = name;
  }

  get name() {
    return this.#name;
  }
}

/** A session that goes on without this page. `may`: whether this page changes its settings. */
class Joined extends Source {
  constructor({ session, may = true }) {
    super("join", null);
    Object.assign(this, { joins: session, may });
  }
}

// ------------------------------------------------------------------------------------------------ files

const USE = "use an MP4 (H.264) or WebM video, or a PNG, JPEG or WebP picture.";

async function openFile(settings, { file }) {
  const image = file.type.startsWith("image/") ? await createImageBitmap(file).catch(() => null) : null;
  if (image) return new Still(settings, image, file.name);
  const video = document.createElement("video");
  Object.assign(video, { muted: true, loop: true, playsInline: true, src: URL.createObjectURL(file) });
  try {
    await video.play();
  } catch {
    URL.revokeObjectURL(video.src);
    throw new SourceError(`The file ${file.name} cannot be shown by this browser: ${USE}`);
  }
  return new Movie(settings, video, file.name);
}

const OPENERS = {
  camera: openCamera,
  screen: openScreen,
  file: openFile,
  testcard: async (settings) => new TestCard(settings),
  server: async (settings, options) => new Remote(options),
  join: async (settings, options) => new Joined(options),
};

/** Opens a source by its kind, in the settings' shape; SourceError where that fails. */
export const openSource = (kind, settings, options = {}) => OPENERS[kind](settings, options);
