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

const session = (id) => `api/sessions/${encodeURIComponent(id)}`;

export const schema = () => ask("GET", "api/schema");
export const loras = () => ask("GET", "api/loras");
export const mix = (strengths) => ask("PUT", "api/loras", { strengths });
export const open = (offer) => ask("POST", "api/sessions", offer);
export const watch = (id, offer) => ask("POST", `${session(id)}/viewers`, offer);
export const statistics = (id, timeout) => ask("GET", session(id), null, { timeout });
export const end = (id) => ask("DELETE", session(id), null, { keepalive: true });
