/** What the page says in each state: the word in the bar, its tone, and the notice on the picture. */

const WORDS = {
  idle: ["Ready", ""],
  connecting: ["Connecting", "wait"],
  queued: ["Waiting for a place", "wait"],
  starting: ["Starting", "wait"],
  painting: ["Painting", "good"],
  restarting: ["Restarting", "wait"],
  failed: ["Not painting", "bad"],
  stopping: ["Stopping", "bad"],
  reconnecting: ["Reconnecting", "wait"],
  refused: ["Refused", "bad"],
};

const MEANWHILE = "Until then you see your own picture.";

/** What to add to the server's notice, and what to say where it has none. */
const NOTICES = {
  starting: ["The model is being loaded.", MEANWHILE],
  restarting: ["The painter stopped and is being started again.", MEANWHILE],
  failed: ["The painter does not start.", "See the server's terminal, then start it again."],
  stopping: ["The server stops.", "The page goes on by itself when it is back."],
};

const KINDS = { good: "plain", wait: "wait", bad: "bad", "": "plain" };

/** Words of the server, which are clauses, as a sentence. */
export const sentence = (text) => text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

/** `{word, tone, notice, kind}` for a session. */
export function words({ state, notice, place }) {
  const [word, tone] = WORDS[state] ?? [state, ""];
  const [own, more] = NOTICES[state] ?? ["", ""];
  const said = state === "queued" ? `Number ${place} in the queue` : word;
  if (state === "queued") return { word: said, tone, notice: "", kind: "plain" }; // it has a card of its own
  return { word: said, tone, notice: [sentence(notice) || own, more].filter(Boolean).join(" "), kind: KINDS[tone] };
}

export const FELL_BACK =
  "WebRTC does not get through from here, so the picture comes as JPEG over a WebSocket: a little later, and not as " +
  "fine. A network that lets UDP through brings it back.";
export const UNPLUGGED =
  "The camera was unplugged. Plug it in again and it goes on by itself, or choose another source.";
export const SIGN_IN = ["Sign in", () => location.reload()]; // the server asks for a token, in place of the page
export const JOINED = "You see a session that others see too: what you change is changed for all of them.";
export const LOOKS_ON = "You see a session as it is: this token may look on only.";
export const UNSHARED = "Screen sharing has ended. Press Screen to share again, or choose another source.";
export const NO_SERVER =
  "The server does not answer. The page goes on by itself when it is there; in a terminal: livebrush serve";
