/** The beat: tapped or typed, or led by a MIDI clock or Ableton Link of the server; and the settings that follow it. */

import * as api from "./api.js";
import { $, icon, make } from "./dom.js";
import { away, choice, dialog, note, number, press, section } from "./section.js";

const LIMITS = { min: 20, max: 400, step: "any" };
const SHAPES = [["sine", "Sine"], ["saw", "Saw"], ["square", "Square"], ["pulse", "Pulse"]];
const TURNS = [0.25, 0.5, 1, 2, 4, 8, 16, 32];
const LEADS = { none: "tap along", typed: "typed", tap: "tapped", midi: "MIDI clock", link: "Ableton Link" };
const STANDS = "Choose a source first: a setting follows the beat while it paints.";

export class Beat {
  follows = {};
  #waves = new Map(); // setting -> its button

  constructor(page) {
    this.page = page;
    this.ready = this.#begin();
  }

  /** Nothing of it is there where the server knows no beat. */
  async #begin() {
    const now = await api.part("api/beat").catch(() => null);
    if (!now) return;
    this.#build();
    this.#wire();
    this.#show(now);
    this.page.session.on("beat", (told) => this.#show(told));
    this.page.session.on("follows", ({ follows }) => this.#followed(follows));
    this.page.session.on("hello", () => this.#followed({})); // another session; what follows there is told next
  }

  #build() {
    this.bpm = number("bpm", "Beats a minute", LIMITS);
    this.dot = make("i", { class: "beat", "aria-hidden": "true" });
    this.lead = make("small");
    const tap = press("Tap", () => this.tap(), { id: "tap", "data-key": "t", "aria-keyshortcuts": "t", "aria-label": "Tap the beat" });
    const taps = make("div", { class: "field half taps" }, make("div", { class: "head" }, this.dot, this.lead), tap);
    this.list = make("ul", { class: "bound", "aria-label": "Settings that follow the beat" });
    section("beat", "Beat", this.bpm, taps, this.list);
    $("input", this.bpm).onchange = ({ target }) => this.#typed(Number(target.value));
  }

  /** A small button on every slider. */
  #wire() {
    for (const [name, element] of this.page.controls.sliders) {
      const title = $("label", element).textContent;
      const looks = { type: "button", class: "plain small wave", "aria-pressed": "false", "aria-label": `${title} follows the beat`,
        "aria-haspopup": "dialog", title: "Follow the beat" };
      const wave = make("button", { ...looks, onclick: () => this.#ask(name, title) }, icon("wave"));
      $(".exact", element).before(wave);
      this.#waves.set(name, wave);
    }
  }

  tap() {
    if (this.page.session.id) return this.page.session.send({ type: "tap" });
    return api.write("POST", "api/beat/tap", {}).then((now) => this.#show(now), () => {}); // away: the notice says so
  }

  #typed(bpm) {
    if (bpm >= LIMITS.min && bpm <= LIMITS.max) api.write("PUT", "api/beat", { bpm }).then((now) => this.#show(now), () => {});
  }

  #show({ bpm, position, running = true, lead = "none" }) {
    const input = $("input", this.bpm);
    if (document.activeElement !== input) input.value = Number(bpm.toFixed(1));
    this.lead.textContent = LEADS[lead] ?? lead;
    this.dot.style.animation = running ? `beat ${60 / bpm}s linear ${-((position % 1) * 60) / bpm}s infinite` : "none";
  }

  // ---------------------------------------------------------------------------------------------- followers

  #followed(follows) {
    this.follows = follows;
    for (const [name, wave] of this.#waves) wave.setAttribute("aria-pressed", name in follows);
    const rows = Object.entries(follows).map(([name, follow]) => this.#row(name, follow));
    this.list.replaceChildren(...rows);
    this.list.hidden = !rows.length;
  }

  #row(name, { shape, beats, low, high }) {
    const text = `${name}: ${shape}, ${beats} beats, ${round(low)} to ${round(high)}`;
    return make("li", {}, make("span", { text }), away(`${name} follows no longer`, () => this.set(name, null)));
  }

  /** Lets a setting of the session follow (`{shape, beats, low, high}`), or no longer (null). */
  set(name, follow) {
    this.page.session.send({ type: "follow", setting: name, follow });
  }

  #ask(name, title) {
    $("#follow")?.remove();
    const schema = this.page.store.fields[name];
    const [min, max] = [schema.minimum, schema.maximum ?? schema.exclusiveMaximum];
    const now = this.follows[name] ?? { shape: "sine", beats: 4, low: min, high: max };
    const shape = choice("follow-shape", "Shape", SHAPES);
    const beats = choice("follow-beats", "Beats of a turn", [...new Set([...TURNS, now.beats])].map((x) => [x, x]));
    const [low, high] = ["low", "high"].map((end) => number(`follow-${end}`, end === "low" ? "Lowest" : "Highest", { min, max, step: "any" }));
    const inputs = { shape: $("select", shape), beats: $("select", beats), low: $("input", low), high: $("input", high) };
    for (const [key, input] of Object.entries(inputs)) input.value = now[key];
    const told = note();
    const take = () => {
      if (!this.page.session.id) return void (told.textContent = STANDS);
      const numbers = Object.fromEntries(["beats", "low", "high"].map((key) => [key, Number(inputs[key].value)]));
      this.set(name, { shape: inputs.shape.value, ...numbers });
      made.close();
    };
    const go = press("Follow", take, { class: "button strong" });
    const end = press("Let go", () => (this.set(name, null), made.close()));
    end.hidden = !(name in this.follows);
    const fields = make("div", { class: "fields" }, shape, beats, low, high, told);
    const made = dialog("follow", `${title} follows the beat`, fields, make("div", { class: "row" }, go, end));
    made.showModal();
  }
}

const round = (value) => Number(value.toFixed(3));
