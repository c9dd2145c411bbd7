/** Original against painted: a line that is dragged, or moved by the arrow keys. */

import { everyFrame } from "./dom.js";
import { resize } from "./fit.js";

const KEYS = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10 };

export class Compare {
  #at = 50; // percent from the left

  /** `echo` shows the original behind the painted picture. */
  constructor(frame, line, echo) {
    Object.assign(this, { frame, line, echo });
    line.onkeydown = (event) => this.#key(event);
    frame.onpointerdown = (event) => this.#grab(event);
    frame.addEventListener("pointermove", (event) => frame.hasPointerCapture(event.pointerId) && this.#follow(event));
  }

  get on() {
    return "compare" in this.frame.dataset;
  }

  show(on) {
    if (on) this.frame.dataset.compare = "";
    else delete this.frame.dataset.compare;
    this.line.hidden = !on;
    this.echo.show(on);
    if (on) this.#move(this.#at);
  }

  #grab(event) {
    if (!this.on || event.button || event.target.closest("button")) return;
    this.frame.setPointerCapture(event.pointerId);
    this.#follow(event);
  }

  #follow({ clientX }) {
    const { left, width } = this.frame.getBoundingClientRect();
    this.#move(((clientX - left) / width) * 100);
  }

  #key(event) {
    const to = { Home: 0, End: 100 }[event.key] ?? this.#at + (KEYS[event.key] ?? NaN);
    if (Number.isNaN(to)) return;
    event.preventDefault();
    event.stopPropagation();
    this.#move(to);
  }

  #move(to) {
    this.#at = Math.min(100, Math.max(0, to));
    this.frame.style.setProperty("--split", `${this.#at}%`);
    this.line.setAttribute("aria-valuenow", Math.round(this.#at));
    this.line.setAttribute("aria-valuetext", `${Math.round(this.#at)} percent original`);
  }
}

const HELD = 45; // pictures of the camera that are kept at most: a second and a half

/** The camera as it was when the painted picture was taken: both sides of the line show the same moment. */
export class Echo {
  #held = []; // [when, bitmap], oldest first

  /** `delay()` is how far the painted picture is behind, in ms. */
  constructor(camera, canvas, delay) {
    Object.assign(this, { camera, canvas, delay, quit: null });
    this.context = canvas.getContext("2d", { alpha: false });
  }

  show(on) {
    this.quit?.();
    this.quit = on ? everyFrame(this.camera, (now, data) => this.#take(data.captureTime ?? now)) : null;
    this.canvas.hidden = true; // until there is a picture on it
    this.#forget(this.#held.length);
  }

  async #take(when) {
    const image = this.camera.videoWidth && (await createImageBitmap(this.camera).catch(() => null));
    if (!image) return;
    if (!this.quit) return image.close();
    this.#held.push([when, image]);
    const due = this.#held.filter(([at]) => at <= when - this.delay()).length;
    this.#forget(Math.max(due - 1, this.#held.length - HELD));
    this.#draw(this.#held[0][1]);
  }

  #draw(image) {
    resize(this.canvas, [image.width, image.height]);
    this.context.drawImage(image, 0, 0);
    this.canvas.hidden = false;
  }

  #forget(count) {
    for (const [, image] of this.#held.splice(0, Math.max(0, count))) image.close();
  }
}
