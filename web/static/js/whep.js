/** WHEP (draft-ietf-wish-whep): an offer that only receives, by one HTTP request; DELETE of its resource ends it. */

import * as api from "./api.js";

const TIMEOUT = 10_000; // ms
const UNKNOWN = [404, 405, 415]; // no such session, or a server that knows no WHEP: its own API says which

/** `{sdp, leave}` for a session by its name or id; ServerError where the server refuses. */
export async function whep(session, sdp) {
  try {
    return await post(session, sdp);
  } catch (error) {
    if (!UNKNOWN.includes(error.status)) throw error;
    return { ...(await api.watch(session, { sdp, type: "offer" })), leave: () => {} };
  }
}

async function post(session, sdp) {
  const answer = await fetch(api.address(`whep/${encodeURIComponent(session)}`), {
    method: "POST",
    headers: { "Content-Type": "application/sdp" },
    body: sdp,
    signal: AbortSignal.timeout(TIMEOUT),
  }).catch(() => {
    throw new api.ServerError("The server does not answer.");
  });
  if (!answer.ok) throw api.refusal(answer.status, await answer.json().catch(() => ({})), Number(answer.headers.get("Retry-After")));
  const resource = new URL(answer.headers.get("Location") ?? "", answer.url);
  const leave = () => fetch(resource, { method: "DELETE", keepalive: true }).catch(() => {}); // it lapses by itself as well
  return { sdp: await answer.text(), leave };
}
