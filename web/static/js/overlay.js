/** Figures on the picture: what the page measured, and what the server said. */

import { make } from "./dom.js";

const ms = (value) => (value == null ? "–" : value < 9.95 ? value.toFixed(1) : String(Math.round(value)));
const pair = (figures) => `${ms(figures?.p50)} / ${ms(figures?.p95)} ms`;
const rate = (value) => (value == null ? "–" : Math.round(value));
const percent = (share) => `${Math.round((share ?? 0) * 100)} %`;
const megabits = (kbps) => ((kbps ?? 0) / 1000).toFixed(1);
const ALWAYS = 6; // rows that a phone shows as well
const WAYS = { webrtc: "WebRTC", websocket: "WebSocket" };

/** The rows, as pairs of name and text. */
function rows({ latency, stats, way, transport }) {
  return [
    ["Glass to glass", pair(latency)],
    ["Engine", pair(stats.engine_ms)],
    ["Server", pair(stats.server_ms)],
    ["Frames in / out", `${rate(stats.fps_in)} / ${rate(stats.fps_out)} fps`],
    ["Dropped in / out", `${stats.dropped_in ?? "–"} / ${stats.dropped_out ?? "–"}`],
    ["Skipped", percent(stats.skip_rate)],
    ["Way", `${WAYS[transport] ?? "–"} ${way.codec ?? ""}`],
    ["Picture", way.width ? `${way.width}×${way.height}` : "–"],
    ["Up / down", `${megabits(way.up_kbps)} / ${megabits(way.down_kbps)} Mbit/s`],
    ["Round trip, loss", way.rtt_ms === undefined ? "–" : `${ms(way.rtt_ms)} ms, ${percent(way.loss)}`],
    ["Sessions, restarts", `${stats.sessions ?? "–"}, ${stats.restarts ?? "–"}`],
  ];
}

export class Overlay {
  #cells = [];

  constructor(element) {
    this.element = element;
    this.curve = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.curve.setAttribute("viewBox", "0 0 100 100");
    this.curve.setAttribute("preserveAspectRatio", "none");
    this.curve.setAttribute("aria-hidden", "true");
  }

  show(figures) {
    if (this.element.hidden) return;
    const now = rows(figures);
    if (!this.#cells.length) this.#build(now);
    now.forEach(([, text], k) => this.#cells[k].textContent !== text && (this.#cells[k].textContent = text));
    this.#draw(figures.samples, figures.latency.p95);
  }

  #build(now) {
    const extra = (k) => ({ class: k < ALWAYS ? null : "extra" });
    this.#cells = now.map((_, k) => make("dd", extra(k)));
    const children = now.flatMap(([name], k) => [make("dt", { text: name, ...extra(k) }), this.#cells[k]]);
    children.splice(2, 0, make("dd", { class: "wide" }, this.curve));
    this.element.replaceChildren(...children);
  }

  /** The latency of every picture of the last ten seconds. */
  #draw(samples, p95) {
    if (!samples.length) return this.curve.replaceChildren();
    const [end, top] = [samples.at(-1)[0], Math.max(50, (p95 ?? 0) * 1.5)];
    const point = ([at, value]) => [100 - (end - at) / 100, 100 - (Math.min(value, top) / top) * 100];
    const points = samples.map((sample) => point(sample).map((x) => x.toFixed(1)).join()).join(" ");
    const ground = shape("line", { x1: 0, x2: 100, y1: 100, y2: 100 });
    this.curve.replaceChildren(ground, shape("polyline", { points }));
  }
}

function shape(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
