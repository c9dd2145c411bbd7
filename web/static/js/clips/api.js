/** The server's clips over HTTP. */

import { address } from "../api.js";

/** No success: the server's own sentence, `status` (0: no answer), and the field that it is about. */
export class ClipError extends Error {
  constructor(message, { status = 0, param = "" } = {}) {
    super(message);
    Object.assign(this, { status, param: param ?? "" });
  }
}

async function ask(method, path, body, signal = AbortSignal.timeout(120_000)) {
  const form = body instanceof FormData;
  const answer = await fetch(address(path), {
    method,
    signal,
    headers: body && !form ? { "Content-Type": "application/json" } : {},
    body: body && !form ? JSON.stringify(body) : body,
  }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ClipError("The server does not answer.");
  });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw refusal(answer.status, said);
  return said;
}

/** Below /v1 an error is an object; elsewhere a sentence with `param` beside it. */
function refusal(status, { error = `The server answered ${status}.`, param }) {
  return typeof error === "string"
    ? new ClipError(error, { status, param })
    : new ClipError(error.message, { status, param: error.param });
}

const video = (id) => `v1/videos/${encodeURIComponent(id)}`;

export const facts = () => ask("GET", "api/clips");
export const plan = (asked, signal) => ask("POST", "api/clips/plan", asked, signal);
export const cancel = (id) => ask("POST", `${video(id)}/cancel`);
export const resume = (id) => ask("POST", `${video(id)}/resume`);
export const remove = (id) => ask("DELETE", video(id));
export const manifest = (id) => ask("GET", `${video(id)}/content?variant=manifest`);
export const content = (id, variant = "video") => address(`${video(id)}/content?variant=${variant}`).href;
export const saved = (id) => address(`${video(id)}/content?download=true`).href;

/** Queues a clip; `file` is its input, where it has one. */
export function create(asked, file) {
  if (!file) return ask("POST", "v1/videos", asked);
  const form = new FormData();
  for (const [name, value] of Object.entries(asked)) {
    form.append(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  form.append("input_reference", file, file.name);
  return ask("POST", "v1/videos", form);
}

/** Calls `told({changed, ids})` whenever something changed, and `lost(true|false)` as the server goes and comes. */
export function follow(told, lost) {
  const source = new EventSource(address("api/clips/events"));
  source.addEventListener("videos", (event) => told(JSON.parse(event.data)));
  source.onopen = () => lost(false);
  source.onerror = () => lost(true);
}
