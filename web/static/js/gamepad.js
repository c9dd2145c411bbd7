/** Gamepads: sticks push what they are bound to, triggers set it, buttons press. Looked at once a picture, while one is there. */

const DEAD = 0.18; // of a stick's way, around its middle
const RANGE_S = 1.5; // a stick at its end goes through the whole range in so many seconds
const DOWN = 0.5;
const AXES = ["left stick, across", "left stick, down", "right stick, across", "right stick, down"];

export class Gamepads {
  names = [];
  #before = new Map(); // button -> how far it was down
  #last = null;

  /** `told(event)` for everything that moves, `changed()` when pads come or go. */
  constructor(told, changed) {
    Object.assign(this, { told, changed });
    for (const name of ["gamepadconnected", "gamepaddisconnected"]) addEventListener(name, () => this.#look());
    this.#look();
  }

  static get there() {
    return "getGamepads" in navigator;
  }

  #look() {
    const pads = present();
    this.names = pads.map(({ id }) => id.replace(/\s*\(.*\)$/, ""));
    this.changed?.();
    if (pads.length && !this.#last) this.#run(performance.now());
  }

  #run(now) {
    const seconds = this.#last === null ? 0 : Math.min(0.1, (now - this.#last) / 1000);
    const pads = present();
    this.#last = pads.length ? now : null;
    for (const pad of pads) this.#read(pad, seconds);
    if (pads.length) requestAnimationFrame((next) => this.#run(next));
  }

  #read({ index, axes, buttons }, seconds) {
    axes.forEach((value, k) => this.#axis(`pad:${index}:axis:${k}`, value, AXES[k] ?? `axis ${k + 1}`, seconds));
    buttons.forEach((button, k) => this.#button(`pad:${index}:button:${k}`, button, k));
  }

  #axis(control, value, label, seconds) {
    if (Math.abs(value) < DEAD) return;
    const beyond = (Math.abs(value) - DEAD) / (1 - DEAD);
    const by = Math.sign(value) * beyond * (seconds / RANGE_S) * (/down/.test(label) ? -1 : 1); // up is more
    this.told({ control, label: `Gamepad, ${label}`, kind: "push", value: by, far: Math.abs(value) > DOWN });
  }

  /** A button that says how far it is down is a trigger, as soon as it has been half way. */
  #button(control, { value, pressed }, k) {
    const before = this.#before.get(control) ?? 0;
    const now = Math.max(value, pressed ? 1 : 0);
    const half = value > 0 && value < 1;
    this.#before.set(control, now);
    const label = `Gamepad, button ${k + 1}`;
    if (half || this.#trigger.has(control)) {
      this.#trigger.add(control);
      if (value !== before) this.told({ control, label, kind: "value", value, far: value > DOWN });
    } else if (now >= DOWN && before < DOWN) this.told({ control, label, kind: "press", value: 1 });
  }

  #trigger = new Set();
}

const present = () => [...(navigator.getGamepads?.() ?? [])].filter((pad) => pad?.connected !== false && pad);
