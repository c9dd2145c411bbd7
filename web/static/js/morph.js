/** From one look to another over time: numbers glide, prompts blend, everything else changes half way. */

import { between } from "./grammar.js";
import { inLimits, kind, only } from "./store.js";

const STEP = 50; // ms
const WHOLE = ["seed", "width", "height"]; // numbers that mean nothing between two values
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** The value between two, `share` of the way (0..1). */
function value(name, field, from, to, share) {
  if (share >= 1) return to;
  if (name.endsWith("prompt")) return between(from, to, share) ?? (share < 0.5 ? from : to);
  const glides = ["number", "integer"].includes(kind(field)) && !WHOLE.includes(name) && from !== null && to !== null;
  if (!glides) return share < 0.5 ? from : to;
  return inLimits(field, Number((from + (to - from) * share).toFixed(4)));
}

/** The settings `share` of the way from some to others. */
export const mixed = (fields, from, to, share) =>
  Object.fromEntries(Object.keys(to).map((name) => [name, value(name, fields[name], from[name], to[name], share)]));

/** One way at a time; a setting that somebody else moves meanwhile leaves it. */
export class Morph {
  #timer = null;
  #own = false;

  constructor(store) {
    this.store = store;
    store.listen((changes) => this.#own || this.#without(Object.keys(changes)));
  }

  /** Resolves when it has arrived, or nothing of it is left. */
  start(to, seconds) {
    this.stop();
    const { values, fields } = this.store;
    const from = { ...values };
    this.to = only(to, (name, wanted) => name in fields && !same(wanted, values[name]));
    const began = performance.now();
    return new Promise((resolve) => {
      this.done = resolve;
      this.#timer = setInterval(() => this.#step(from, (performance.now() - began) / (seconds * 1000)), STEP);
    });
  }

  stop() {
    clearInterval(this.#timer);
    this.to = {};
    this.done?.();
  }

  #step(from, share) {
    this.#own = true;
    this.store.change(mixed(this.store.fields, from, this.to, share));
    this.#own = false;
    if (share >= 1) this.stop();
  }

  #without(names) {
    if (!this.to || !names.some((name) => name in this.to)) return;
    this.to = only(this.to, (name) => !names.includes(name));
    if (!Object.keys(this.to).length) this.stop();
  }
}
