/** Presets: looks by name, kept by the server where it keeps them, else by this browser; loaded at once or over seconds. */

import * as api from "./api.js";
import { slider } from "./controls.js";
import { $, download, kept, make, onEnter } from "./dom.js";
import { Morph } from "./morph.js";
import { textOf } from "./png.js";
import { away, line, note, press, section } from "./section.js";
import { only } from "./store.js";

const SHAPE = ["width", "height", "fit"]; // of the picture, and not of its look
const SECONDS = { type: "number", minimum: 0, maximum: 30 };
const FILE = "livebrush-presets.json";

/** Owner of the list. `{name, settings, own, here}`: here is in this browser; what is not one's own stays. */
export class Presets {
  list = [];
  over = kept.get("morph") ?? 0; // seconds
  #shelf = make("ul", { class: "shelf", "aria-label": "Presets" });
  #note = note();

  constructor(page) {
    this.page = page;
    this.morph = new Morph(page.store);
    this.#build();
    this.ready = this.read();
  }

  #build() {
    this.name = line("preset-name", "Name", { maxlength: 48, enterkeyhint: "done" });
    const input = $("input", this.name);
    onEnter(input, () => this.#saved());
    this.name.append(press("Save", () => this.#saved()));
    const time = slider({ name: "morph", schema: SECONDS, title: "Seconds to get there", told: (x) => this.#time(x) });
    time.show(this.over);
    this.time = time;
    const files = make("input", { type: "file", accept: ".json,.png,application/json,image/png", hidden: true, id: "preset-file",
      "aria-label": "Presets, or a snapshot" });
    files.onchange = () => (this.bring(files.files[0]), (files.value = ""));
    const row = make("div", { class: "field row" }, press("Import", () => files.click()), press("Export", () => this.export()), files);
    section("presets", "Presets", this.#shelf, time.element, this.name, row, this.#note);
  }

  #time(seconds) {
    this.over = seconds ?? 0;
    this.time.show(this.over);
    kept.set("morph", this.over);
  }

  /** Everything anew, from the server and from this browser. */
  async read() {
    const told = await api.part("api/presets").catch(() => null);
    this.served = told !== null;
    const mine = Object.entries(kept.get("presets") ?? {}).map(([name, settings]) => ({ name, settings, own: true, here: true }));
    const theirs = (told?.presets ?? []).map(({ name, settings, own }) => ({ name, settings, own }));
    const known = new Set(theirs.map(({ name }) => name));
    this.list = [...theirs, ...mine.filter(({ name }) => !known.has(name))];
    this.#show();
  }

  #show() {
    this.#shelf.replaceChildren(...this.list.map((preset) => this.#item(preset)));
    this.#shelf.hidden = !this.list.length;
  }

  #item(preset) {
    const { name, own } = preset;
    const chip = make("button", { type: "button", class: "chip", text: name, onclick: () => this.load(name) });
    const gone = own ? [away(`Delete ${name}`, () => this.remove(name))] : [];
    return make("li", {}, chip, ...gone);
  }

  find(name) {
    return this.list.find((preset) => preset.name === name);
  }

  // ---------------------------------------------------------------------------------------------- loaded

  /** Moves the settings to a preset; resolves when they are there. */
  async load(name, seconds = this.over) {
    const settings = only(this.find(name).settings, (key) => key in this.page.store.fields);
    this.#tell(seconds ? `${name}: there in ${seconds} s.` : "");
    const { session, store } = this.page;
    if (!seconds) return store.change(settings);
    if (this.served && session.id) return session.send({ type: "morph", to: settings, seconds });
    await this.morph.start(settings, seconds);
    this.#tell("");
  }

  // ---------------------------------------------------------------------------------------------- kept

  #saved() {
    const input = $("input", this.name);
    const name = input.value.trim();
    if (!name) return this.#tell("Give it a name first.", true);
    this.save(name, only(this.page.store.values, (key) => !SHAPE.includes(key))).then((saved) => {
      if (!saved) return;
      input.value = "";
      this.#tell(`Saved ${name}.`);
    });
  }

  /** Keeps settings under a name; false where the server refuses, which is told. */
  async save(name, settings) {
    if (!this.served) this.#keep((all) => (all[name] = settings));
    else if (!(await this.#ask("PUT", name, { settings }))) return false;
    await this.read();
    return true;
  }

  async remove(name) {
    const { here, settings } = this.find(name);
    if (here) this.#keep((all) => delete all[name]);
    else if (!(await this.#ask("DELETE", name))) return;
    await this.read();
    const act = ["Undo", () => this.save(name, settings)];
    this.page.notices.set("done", `Deleted ${name}.`, { lasts: 8000, act });
  }

  #keep(change) {
    const all = kept.get("presets") ?? {};
    change(all);
    kept.set("presets", all);
  }

  #ask(method, name, body) {
    return api.write(method, `api/presets/${encodeURIComponent(name)}`, body).then(
      () => true,
      ({ message }) => (this.#tell(message, true), false),
    );
  }

  // ---------------------------------------------------------------------------------------------- files

  export() {
    const presets = this.list.map(({ name, settings }) => ({ name, settings }));
    download(new Blob([JSON.stringify({ presets }, null, 2)], { type: "application/json" }), FILE);
    this.#tell(`Saved ${FILE}, with ${presets.length} in it.`);
  }

  /** Takes presets from a file of theirs, or the settings out of a snapshot. */
  async bring(file) {
    const found = await within(file).catch(() => null);
    if (!found?.length) return this.#tell(`${file.name} has no presets in it: use an exported file or a snapshot.`, true);
    let count = 0;
    for (const { name, settings } of found) count += await this.save(name, settings);
    if (count) this.#tell(`Brought in ${count}: ${found.map(({ name }) => name).join(", ")}.`);
  }

  #tell(text, wrong = false) {
    this.#note.textContent = text;
    this.#note.classList.toggle("wrong", wrong);
  }
}

/** `[{name, settings}]` of a file; what is no preset in it is left out. */
async function within(file) {
  const picture = file.type === "image/png" || file.name.endsWith(".png");
  const said = JSON.parse(picture ? await textOf(file, "livebrush") : await file.text());
  const title = file.name.replace(/\.\w+$/, "").slice(0, 48);
  const all = said.presets ?? [{ name: title, settings: said.settings }];
  const settled = all.map(({ name, settings }) => ({ name, settings: only(settings ?? {}, (key) => !SHAPE.includes(key)) }));
  return settled.filter(({ name, settings }) => typeof name === "string" && Object.keys(settings).length);
}
