/** LoRAs: how strong each is in the weights that this server paints with, on every page; only where it knows some. */

import * as api from "./api.js";
import { slider } from "./controls.js";
import { $, make, pause } from "./dom.js";

const LIMITS = { type: "number", minimum: 0, maximum: 2 }; // of the sliders; what is set beyond it widens them
const CHANGING = "The new mix is made ready; the picture goes on.";
const SHARED = "How much of this LoRA is in the picture, on every page of this server.";

/** Fills `#loras`. One change is under way at a time; what is moved meanwhile waits, the newest value of each. */
export class Loras {
  #fields = new Map();
  #waiting = {};
  #busy = false;
  #section = $("#loras");
  #note = make("p", { class: "note", role: "status" });

  constructor() {
    this.#refresh();
  }

  /** What holds, as the server says. A slider that is being moved stays where it is. */
  show({ loras, changing }) {
    const known = [...this.#fields.keys()];
    if (loras.length !== known.length || loras.some(({ name }) => !this.#fields.has(name))) this.#fill(loras);
    for (const { name, strength } of loras) if (!this.#busy && !changing) this.#fields.get(name).show(strength);
    this.#section.hidden = !loras.length;
    this.#section.classList.toggle("changing", changing || this.#busy);
    this.#tell(changing || this.#busy ? CHANGING : "");
  }

  #fill(loras) {
    const made = loras.map(({ name, strength }, index) => {
      const schema = { ...LIMITS, minimum: Math.min(0, strength), maximum: Math.max(2, strength) };
      const told = (value) => value !== undefined && this.#ask(name, value);
      const field = slider({ name: `lora-${index + 1}`, schema, title: name, told });
      field.element.dataset.help = SHARED;
      return [name, field];
    });
    this.#fields = new Map(made);
    this.#section.replaceChildren(...made.map(([, { element }]) => element), this.#note);
  }

  #tell(text, wrong = false) {
    this.#note.textContent = text;
    this.#note.classList.toggle("wrong", wrong);
  }

  #ask(name, strength) {
    this.#fields.get(name).show(strength);
    this.#waiting[name] = strength;
    if (!this.#busy) this.#send();
  }

  async #send() {
    this.#busy = true;
    let error = null;
    this.#tell(CHANGING);
    while (Object.keys(this.#waiting).length) {
      const strengths = this.#waiting;
      this.#waiting = {};
      error = await api.mix(strengths).then(() => null, (refusal) => refusal);
    }
    this.#busy = false;
    await this.#refresh();
    if (error) this.#tell(error.message, true);
  }

  /** Asks the server until what holds is what was asked for. */
  async #refresh() {
    for (;;) {
      const now = await api.loras().catch(() => null); // away: it tells when it is back
      if (!now || this.#busy) return;
      this.show(now);
      if (!now.changing) return;
      await pause(1000);
    }
  }
}
