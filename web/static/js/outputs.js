/** Where else the picture goes: virtual camera, NDI, a stream, a recording. Of the session that is shown; for admins. */

import * as api from "./api.js";
import { $, make, onEnter } from "./dom.js";
import { away, choice, line, note, press, section } from "./section.js";
import { sentence } from "./words.js";

const TONES = { running: "good", starting: "wait", waiting: "wait", stopped: "bad" };
const EVERY = 2000; // ms between two looks at the figures, while somebody looks at them
const IDLE = "Choose a source first: an output shows the picture of this page's session.";

export class Outputs {
  constructor(page) {
    this.page = page;
    this.turn = 0; // of the lists that come: an answer that was overtaken is of no use
    this.ready = this.#begin();
  }

  /** Nothing of it is there where the server has no outputs. */
  async #begin() {
    const told = await api.part("api/outputs").catch(() => null);
    if (!told) return;
    this.kinds = told.outputs;
    this.#build();
    const { session } = this.page;
    session.on("outputs", ({ outputs }) => this.#heard(outputs));
    session.on("hello", () => this.#read());
    session.on("state", () => this.#idle());
    setInterval(() => this.section.open && this.list.children.length && this.#read(), EVERY);
    this.#read();
  }

  #build() {
    const usable = this.kinds.filter(({ usable: can }) => can);
    const others = this.kinds.filter(({ usable: can }) => !can);
    this.kind = choice("output-kind", "To", usable.map(({ kind, about }) => [kind, `${kind}: ${about}`]));
    this.kind.classList.remove("half");
    this.where = line("output-where", "Address or file", {});
    $("select", this.kind).onchange = () => this.#chosen();
    onEnter($("input", this.where), () => this.#add());
    this.where.append(press("Start", () => this.#add(), { class: "button strong" }));
    this.list = make("ul", { class: "bound", "aria-label": "Outputs" });
    this.note = note();
    const why = others.map(({ kind, why: text }) => make("li", {}, make("b", { text: kind }), ` ${text}`));
    const missing = make("details", { class: "why" }, make("summary", { text: "Not here" }), make("ul", {}, ...why));
    missing.hidden = !others.length;
    this.section = section("outputs", "Outputs", this.list, this.kind, this.where, this.note, missing);
    this.#chosen();
    this.#idle();
  }

  /** The beginning of what is to be written, and its form. */
  #chosen() {
    const { form = "" } = this.kinds.find(({ kind }) => kind === $("select", this.kind).value) ?? {};
    const input = $("input", this.where);
    input.placeholder = form;
    input.value = form.split(",")[0].replace(/[A-Z].*$/, "");
  }

  #idle() {
    const on = Boolean(this.page.session.id);
    if (this.note.textContent === IDLE || !this.note.textContent) this.note.textContent = on ? "" : IDLE;
    if (!on) this.#heard([]);
  }

  async #read() {
    this.#idle();
    const { id } = this.page.session;
    if (!id) return;
    const turn = (this.turn += 1);
    const told = await api.part(api.session(id, "outputs")).catch(() => null);
    if (told && turn === this.turn) this.#show(told.outputs);
  }

  #heard(outputs) {
    this.turn += 1;
    this.#show(outputs);
  }

  #show(outputs) {
    const rows = outputs.map((output) => this.#row(output));
    this.list.replaceChildren(...rows);
    this.list.hidden = !rows.length;
  }

  #row({ id, to, state, error, frames, dropped }) {
    const dot = make("i", { class: "dot", "data-tone": TONES[state] ?? "", "aria-hidden": "true" });
    const figures = frames ? `, ${frames} pictures${dropped ? `, ${dropped} left out` : ""}` : "";
    const told = make("small", { text: error ? sentence(error) : `${state}${figures}` });
    return make("li", { "data-state": state }, dot, make("span", {}, make("b", { text: to }), told), away(`Stop ${to}`, () => this.#end(id)));
  }

  async #add() {
    const { id } = this.page.session;
    if (!id) return void (this.note.textContent = IDLE);
    const input = $("input", this.where);
    await this.#ask("POST", api.session(id, "outputs"), { to: input.value.trim() || $("select", this.kind).value });
    if (!this.note.textContent) this.#chosen();
  }

  #end(output) {
    return this.#ask("DELETE", api.session(this.page.session.id, "outputs", output));
  }

  async #ask(method, path, body) {
    this.note.textContent = "";
    const wrong = await api.write(method, path, body).then(() => "", ({ message }) => sentence(message));
    await this.#read();
    this.note.textContent = wrong;
  }
}
