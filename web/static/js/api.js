/** The server over HTTP. Paths are relative, so that the page also works below a prefix. */

/** No success: the server's own sentence, `status` (0: no answer), its `queue` and the `wait` in ms, where told. */
export class ServerError extends Error {
  constructor(message, { status = 0, queue = null, wait = 0 } = {}) {
    super(message);
    Object.assign(this, { status, queue, wait });
  }
}

export const address = (path) => new URL(path, document.baseURI);

async function ask(method, path, body, { timeout = 10_000, keepalive = false } = {}) {
  const answer = await fetch(address(path), {
    method,
    keepalive,
    signal: AbortSignal.timeout(timeout),
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body ? JSON.stringify(body) : undefined,
  }).catch(() => {
    throw new ServerError("The server does not answer.");
  });
  const said = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (!answer.ok) throw refusal(answer.status, said, Number(answer.headers.get("Retry-After")));
  return said;
}

/** The error that a status and a body mean; the WebSocket brings the same as a message. */
export function refusal(status, said, wait = 0) {
  const { error = `The server answered ${status}.`, queue = null } = said;
  return new ServerError(error, { status, queue, wait: (queue?.retry_after_s ?? wait) * 1000 });
}

/** The path of a session, or of a part of it: `session("live", "outputs")`. */
export const session = (...parts) => ["api/sessions", ...parts.map(encodeURIComponent)].join("/");

export const schema = () => ask("GET", "api/schema");
export const loras = () => ask("GET", "api/loras");
export const mix = (strengths) => ask("PUT", "api/loras", { strengths });
export const open = (offer) => ask("POST", "api/sessions", offer);
export const watch = (id, offer) => ask("POST", session(id, "viewers"), offer);
export const sessions = () => ask("GET", "api/sessions");
export const login = (token) => ask("POST", "api/login", { token });
export const statistics = (id, timeout) => ask("GET", session(id), null, { timeout });
export const read = (path) => ask("GET", path);
export const write = (method, path, body) => ask(method, path, body);

/** The answer of a part that not every server has, and not everybody may use: null where it is not for us. */
export const part = (path) => read(path).catch((error) => (ABSENT.includes(error.status) ? null : Promise.reject(error)));
const ABSENT = [401, 403, 404, 405, 501];

/** STUN and TURN servers (RFC 8489, 8656). Their passwords are short-lived, so they are asked for anew now and then. */
export async function ice() {
  if (performance.now() < known.until) return known.servers;
  const answer = await part("api/ice").catch(() => known); // away: those of before may do
  if (answer !== known) Object.assign(known, { servers: answer?.iceServers ?? [], until: performance.now() + FRESH });
  return known.servers;
}
const FRESH = 300_000; // ms
const known = { servers: [], until: 0 };

export const end = (id) => ask("DELETE", session(id), null, { keepalive: true });
