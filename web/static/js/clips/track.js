/** The line of segments: borders that are dragged or moved by keys, a segment that is chosen, prompt keys below. */

import { make } from "../dom.js";
import * as model from "./model.js";

const COLOURS = ["#ffb074", "#7ec8ff", "#b9e07a", "#e79be0", "#ffd766", "#8fe0cf"];
const STEPS = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -8, PageUp: 8 };

export class Track {
  /** `told({chosen, changed})` hears of the segment that was chosen and of every change. */
  constructor({ lane, keys, ruler }, clip, told) {
    Object.assign(this, { lane, keys, ruler, clip, told, chosen: 0 });
    this.draw();
  }

  choose(index) {
    this.chosen = Math.min(index, this.clip.segments.length - 1);
    this.draw();
    this.told({ changed: false });
  }

  /** Everything anew; the focus stays where it was. */
  draw() {
    const at = document.activeElement?.dataset?.at;
    const { clip } = this;
    this.lane.replaceChildren(...clip.segments.flatMap((s, i) => this.#segment(s, i)));
    this.keys.replaceChildren(...clip.segments.flatMap((s, i) => s.keys.map((key) => this.#key(s, i, key))));
    this.ruler.replaceChildren(...this.#marks());
    if (at) document.querySelector(`[data-at="${at}"]`)?.focus();
  }

  #segment(s, i) {
    const { clip } = this;
    const share = (100 * (s.end - model.start(clip, i))) / clip.frames;
    const name = s.motion || "each frame by itself";
    const button = make("button", {
      type: "button", class: "part", style: `width: ${share}%; --colour: ${COLOURS[i % COLOURS.length]}`,
      "aria-pressed": String(i === this.chosen), "data-at": `part-${i}`, onclick: () => this.choose(i),
      "aria-label": `Segment ${i + 1}: ${name}, frames ${model.start(clip, i)} to ${s.end - 1}`,
    }, make("b", { text: s.motion || "still" }), make("small", { text: s.prompt || clip.prompt || "" }));
    if (i === clip.segments.length - 1) return [button];
    return [button, this.#border(s, i)];
  }

  #border(s, i) {
    const { clip } = this;
    const grip = make("div", {
      class: "border", role: "slider", tabindex: "0", "aria-orientation": "horizontal", "data-at": `border-${i}`,
      "aria-label": `Border between segments ${i + 1} and ${i + 2}`, "aria-valuemin": model.start(clip, i) + model.LEAST,
      "aria-valuemax": clip.segments[i + 1].end - model.LEAST, "aria-valuenow": s.end,
      "aria-valuetext": `frame ${s.end}`, style: `left: ${(100 * s.end) / clip.frames}%`,
    });
    if (s.fade) grip.style.setProperty("--fade", `${(100 * s.fade) / clip.frames}cqw`);
    this.#moves(grip, () => s.end, (frame) => model.moveBorder(clip, i, frame));
    return grip;
  }

  #key(s, i, key) {
    const grip = make("div", {
      class: "key", role: "slider", tabindex: "0", "aria-orientation": "horizontal",
      "data-at": `key-${i}-${s.keys.indexOf(key)}`, title: key.prompt, "aria-label": `Key: ${key.prompt || "no prompt yet"}`,
      "aria-valuemin": model.start(this.clip, i) + 1, "aria-valuemax": s.end - 1, "aria-valuenow": key.frame,
      "aria-valuetext": `frame ${key.frame}`, style: `left: ${(100 * key.frame) / this.clip.frames}%`,
    });
    this.#moves(grip, () => key.frame, (frame) => {
      s.keys.find((k) => k === key || k.frame === key.frame).frame = Math.round(frame);
      model.settle(this.clip);
      key = s.keys.reduce((a, b) => (Math.abs(b.frame - frame) < Math.abs(a.frame - frame) ? b : a));
    });
    grip.addEventListener("focus", () => this.chosen === i || this.choose(i));
    return grip;
  }

  /** Dragged by a pointer, or moved by the keyboard; `where()` is a frame, `put(frame)` another one. */
  #moves(grip, where, put) {
    const moved = (frame) => {
      put(frame);
      this.draw();
      this.told({ changed: true });
    };
    grip.addEventListener("keydown", (event) => {
      const to = { Home: 0, End: this.clip.frames }[event.key] ?? where() + (STEPS[event.key] ?? NaN);
      if (Number.isNaN(to)) return;
      event.preventDefault();
      moved(to);
    });
    grip.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      grip.focus();
      const { left, width } = this.lane.getBoundingClientRect();
      const drag = (e) => moved(((e.clientX - left) / width) * this.clip.frames);
      const drop = () => {
        removeEventListener("pointermove", drag);
        removeEventListener("pointerup", drop);
        removeEventListener("pointercancel", drop);
      };
      addEventListener("pointermove", drag);
      addEventListener("pointerup", drop);
      addEventListener("pointercancel", drop);
    });
  }

  /** A mark at every second, or so many that they can be read. */
  *#marks() {
    const fps = rate(this.clip.fps);
    const every = Math.max(1, Math.ceil(this.clip.frames / fps / 8));
    for (let second = 0; second * fps < this.clip.frames; second += every) {
      yield make("span", { text: `${second} s`, style: `left: ${(100 * second * fps) / this.clip.frames}%` });
    }
  }
}

/** Frames a second of `24`, `12.5` or `30000/1001`. */
export function rate(text) {
  const [above, below = 1] = String(text).split("/").map(Number);
  return above / below || 8;
}
