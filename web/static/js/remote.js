/** Sources of the server's machine, for admins: its cameras, screens and windows, what is on the network, or an address. */

import * as api from "./api.js";
import { $, icon, make, onEnter } from "./dom.js";
import { dialog, line, note, press } from "./section.js";
import { arrange } from "./standing.js";
import { sentence } from "./words.js";

const ICONS = { camera: "camera", screen: "screen", window: "screen", testcard: "testcard", ndi: "live", file: "file" };

/** Lets the Server button offer a choice. */
export function offerServer(page) {
  const button = $("#start-server");
  $("#server-what").textContent = "its cameras, an address";
  button.hidden = false;
  button.setAttribute("aria-haspopup", "dialog");
  button.onclick = () => show(page);
  arrange();
}

async function show(page) {
  $("#remote")?.remove();
  const list = make("div", { class: "list" });
  const told = note();
  const take = (name) => (made.close(), page.begin("server", { name }));
  const made = dialog("remote", "A source of the server", list, field(take), told);
  made.showModal();
  told.textContent = "Looking what is there…";
  const { sources = [], missing = [], message } = await api.read("api/sources").catch((error) => error);
  list.replaceChildren(...sources.map((source) => entry(source, take)));
  told.textContent = [message, ...missing].filter(Boolean).map(sentence).join(" ");
}

function entry({ name, title, kind }, take) {
  const looks = { type: "button", class: "entry", "data-name": name, onclick: () => take(name) };
  return make("button", looks, icon(ICONS[kind] ?? "server"), make("b", { text: title || name }), make("small", { text: name }));
}

function field(take) {
  const made = line("remote-address", "Address or path", { placeholder: "rtsp://… or a file of the server" });
  const input = $("input", made);
  const go = () => input.value.trim() && take(input.value.trim());
  onEnter(input, go);
  made.append(press("Open", go));
  return make("div", { class: "fields" }, made);
}
