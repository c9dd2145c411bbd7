/** Sources of the server's machine, for admins: its cameras, screens and windows, what is on the network, or an address. */

import * as api from "./api.js";
import { $, icon, make } from "./dom.js";
import { dialog, line, note, press } from "./section.js";
import { arrange } from "./standing.js";

const ICONS = { camera: "camera", screen: "screen", window: "screen", testcard: "testcard", ndi: "live", file: "file" };

/** Lets the Server button offer a choice, where this server lets one choose. */
export async function offerServer(page) {
  if (!(await api.part("api/sources").catch(() => null))) return;
  const button = $("#start-server");
  $("#server-what").textContent = "its cameras, screens, an address";
  button.hidden = false;
  button.setAttribute("aria-haspopup", "dialog");
  button.onclick = () => show(page);
  arrange();
}

async function show(page) {
  $("#remote")?.remove();
  const list = make("div", { class: "list" });
  const told = note();
  const made = dialog("remote", "A source of the server", list, field((name) => take(name)), told);
  const take = (name) => (made.close(), page.begin("server", { name }));
  made.showModal();
  told.textContent = "Looking…";
  const found = await api.part("api/sources").catch(({ message }) => ({ sources: [], message }));
  told.textContent = found?.message ?? (found?.sources.length ? "" : "Nothing was found: give an address.");
  list.replaceChildren(...(found?.sources ?? []).map((source) => entry(source, take)));
}

function entry({ name, title, kind }, take) {
  const looks = { type: "button", class: "entry", "data-name": name, onclick: () => take(name) };
  return make("button", looks, icon(ICONS[kind] ?? "server"), make("b", { text: title || name }), make("small", { text: kind }));
}

function field(take) {
  const made = line("remote-address", "Address or path", { placeholder: "rtsp://… or a file of the server" });
  const input = $("input", made);
  const go = () => input.value.trim() && take(input.value.trim());
  input.onkeydown = (event) => event.key === "Enter" && (event.preventDefault(), go());
  made.append(press("Open", go));
  return make("div", { class: "fields" }, made);
}
