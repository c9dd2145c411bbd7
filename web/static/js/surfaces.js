/** MIDI controllers and gamepads of this browser: what moves what, learned by moving it. */

import { targets } from "./bindings.js";
import { $, kept, make } from "./dom.js";
import { Gamepads } from "./gamepad.js";
import { Midi } from "./midi.js";
import { away, choice, note, press, section } from "./section.js";

const KEPT = "bindings";
const REFUSED = "The browser gave no MIDI: allow it by the icon in the address bar, then press again.";
const NONE = "none yet: press one of its buttons";

/** Owner of the bindings: `{control: {target, label}}`, kept in this browser. */
export class Surfaces {
  bound = kept.get(KEPT) ?? {};
  learning = null; // the target that the next control is bound to
  #list = make("ul", { class: "bound", "aria-label": "What moves what" });
  #note = note();
  #devices = make("p", { class: "note" });

  constructor(page) {
    this.page = page;
    const [told, changed] = [(event) => this.heard(event), () => this.#name()];
    this.midi = new Midi(told, changed);
    this.pads = Gamepads.there ? new Gamepads(told, changed) : null;
    if (Midi.there || this.pads) this.#build();
    this.ready = this.#again();
  }

  #build() {
    this.allow = press("Use MIDI", () => this.open());
    this.allow.hidden = !Midi.there;
    this.what = choice("learn-what", "What to move", []);
    this.what.classList.remove("half");
    this.learn = press("Learn", () => this.#learn(), { class: "button strong", "aria-pressed": "false" });
    this.what.append(this.learn);
    const made = section("surfaces", "MIDI and gamepad", this.#devices, this.allow, this.what, this.#note, this.#list);
    made.addEventListener("keydown", (event) => event.key === "Escape" && this.#forget());
    made.addEventListener("toggle", () => this.#offer());
    this.#offer();
    this.#name();
    this.#show();
  }

  /** Where it was allowed before, it is there at once. */
  async #again() {
    if (!Midi.there || !kept.get("midi")) return;
    const { state } = await navigator.permissions.query({ name: "midi" }).catch(() => ({}));
    if (state === "granted") await this.open();
  }

  async open() {
    try {
      await this.midi.open();
      kept.set("midi", true);
      this.allow.hidden = true;
      this.#tell("");
    } catch {
      this.#tell(REFUSED, true); // whatever the browser's reason: it is the user's to change
    }
  }

  #name() {
    const midi = this.midi.access ? this.midi.inputs.join(", ") || "nothing is plugged in" : "";
    const pads = this.pads?.names.join(", ") || NONE;
    this.#devices.textContent = [midi && `MIDI: ${midi}.`, this.pads && `Gamepad: ${pads}.`].filter(Boolean).join(" ");
  }

  /** What can be moved: presets and sections may have come since. */
  #offer() {
    this.targets = targets(this.page);
    const select = $("select", this.what);
    const before = select.value;
    select.replaceChildren(...[...this.targets].map(([name, { title }]) => make("option", { value: name, text: title })));
    select.value = this.targets.has(before) ? before : "strength";
  }

  // ---------------------------------------------------------------------------------------------- learned

  #learn() {
    if (this.learning) return this.#forget();
    this.learning = $("select", this.what).value;
    this.learn.setAttribute("aria-pressed", "true");
    this.learn.textContent = "Stop learning";
    this.#tell(`Move what is to move ${this.targets.get(this.learning).title}.`);
  }

  #forget() {
    this.learning = null;
    this.learn.setAttribute("aria-pressed", "false");
    this.learn.textContent = "Learn";
    this.#tell("");
  }

  /** Something moved: binds it where one learns, else moves what it is bound to. */
  heard(event) {
    if (this.learning && event.far !== false) return this.bind(event, this.learning);
    const { target } = this.bound[event.control] ?? {};
    if (!target) return;
    if (!this.targets.has(target)) this.#offer();
    this.targets.get(target)?.[event.kind](event.value);
  }

  bind({ control, label }, target) {
    this.bound[control] = { target, label };
    this.#forget();
    this.#tell(`${label} moves ${this.targets.get(target).title}.`);
    this.#kept();
  }

  #unbind(control) {
    delete this.bound[control];
    this.#kept();
  }

  #kept() {
    kept.set(KEPT, this.bound);
    this.#show();
  }

  #show() {
    const rows = Object.entries(this.bound).map(([control, { target, label }]) => {
      const text = `${label}: ${this.targets.get(target)?.title ?? target}`;
      return make("li", {}, make("span", { text }), away(`Forget ${label}`, () => this.#unbind(control)));
    });
    this.#list.replaceChildren(...rows);
    this.#list.hidden = !rows.length;
  }

  #tell(text, wrong = false) {
    this.#note.textContent = text;
    this.#note.classList.toggle("wrong", wrong);
  }
}
