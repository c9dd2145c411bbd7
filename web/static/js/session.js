/** The session: keeps a connection while someone wants one, tells the server what changes, and the page what holds. */

import * as api from "./api.js";
import { pause, wallClock } from "./dom.js";
import { Latency, Matching } from "./latency.js";
import { NoWay, RtcLink } from "./rtc.js";
import { SocketLink } from "./socket.js";
import { Coalesced, only } from "./store.js";
import { sentence } from "./words.js";

const WAITS = [0, 250, 500, 1000, 1500, 2000]; // ms before a new try; then always the last
const SILENCE = 1500; // ms without a message after which the server is asked whether the session lives
const GONE = 10_000; // ms without a message after which it is given up, whatever the server says
const OURS = [400, 422]; // statuses that mean: these settings are wrong
const ABSENT = 404;
const PATIENCE = 2000; // ms between two looks for a session that is to be joined

/**
 * Owner of the connection. `told.state(session)` is called when `state` or `notice` change, `told.settings(error)`
 * after the server's answer to a setting, `told.loras(loras)` when they change, `told.model(facts)` at the start of each
 * connection, `told.picture(stream)` and `told.painted()` as pictures come.
 */
export class Session {
  state = "idle"; // idle, connecting, queued, starting, painting, restarting, failed, stopping, reconnecting, refused
  notice = "";
  place = null; // in the queue
  stats = {};
  fellBack = false;
  source = null;
  link = null;
  endsAt = null; // when the server ends it, by performance.now(); null: when somebody likes
  refusal = 0; // the status it was refused with
  #run = null;
  #asked = 0;
  #open = new Map(); // setting -> number of the newest change that was asked of it and not answered yet
  #listeners = new Map(); // type of a message -> who wants to know
  #said = new Map(); // type of a message -> the newest, for those who come later
  #answers = new Map(); // number of a change -> who waits for its answer

  constructor({ store, camera, canvas, codec, wanted, told }) {
    Object.assign(this, { store, camera, canvas, codec, wanted, told }); // wanted: a transport, or null for the best
    this.latency = new Latency();
    this.matching = new Matching(this.latency);
    this.sender = new Coalesced((changes) => this.#ask(changes));
    store.listen((changes, from) => from === "page" && this.sender.put(changes));
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => this.#seen());
    setInterval(() => this.#report(), 1000);
    setInterval(() => this.#watch(), 500);
  }

  /** The server's name for the session; null while nothing is connected. */
  get id() {
    return this.link?.id ?? null;
  }

  // ---------------------------------------------------------------------------------------------- begin and end

  async start(source) {
    this.source = source;
    if (this.#run) return this.#swap(source);
    this.#run = new AbortController();
    this.#keep(this.#run.signal);
  }

  stop() {
    this.#run?.abort();
    this.#run = null;
    this.rest?.abort();
    this.#drop("stopped");
    this.source = null;
    this.#become("idle", "");
  }

  async #swap(source) {
    const { link } = this;
    const kept = link && ((await link.replace(source)) || (await this.#switched(link, source)));
    if (link && !kept && this.link === link) this.#drop("another source");
    this.#hurry();
  }

  /** From one source of the server to another, without a new connection; false where it is not to be had so. */
  async #switched(link, source) {
    if (!link.id || link.source.kind !== "server" || source.kind !== "server") return false;
    const done = await api.write("PUT", api.session(link.id, "source"), { source: source.name }).then(() => true, () => false);
    if (done) link.source = source;
    return done;
  }

  /** Ends the connection. `free` frees the server's place at once, where the server does not know yet. */
  #drop(reason, free = true) {
    const { link } = this;
    this.link = null;
    for (const [number, resolve] of this.#answers) this.#resolve(number, resolve, null);
    if (!link) return;
    link.finish(reason);
    const freed = free && link.id && !link.source.joins ? api.end(link.id).catch(() => {}) : Promise.resolve(); // else it lapses by itself
    freed.then(() => link.close(reason));
  }

  // ---------------------------------------------------------------------------------------------- the loop

  async #keep(signal) {
    this.fellBack = false;
    for (let failures = 0, wait = 0; !signal.aborted; ) {
      if (wait) await this.#rest(wait);
      if (signal.aborted) return;
      try {
        await this.#live();
        failures = 0;
        wait = WAITS[1];
      } catch (error) {
        wait = signal.aborted ? 0 : this.#failed(error, failures++);
        if (wait === null) return void (this.#run = null);
      }
    }
  }

  /** One connection from its offer to its end. */
  async #live() {
    if (!["queued", "reconnecting"].includes(this.state)) this.#become("connecting");
    const run = this.#run;
    const iceServers = await api.ice();
    if (this.#run !== run) return; // stopped meanwhile
    const link = this.#made(iceServers);
    Object.assign(this, { link, heardAt: 0 });
    const revision = this.store.revision;
    const welcome = await Promise.race([link.open(), link.over]).catch((error) => error);
    if (this.link !== link) return; // stopped, or another source: whoever did it has dropped the link
    if (!welcome.settings) return this.#giveUp(welcome);
    this.#opened(welcome, revision);
    const reason = await link.over;
    if (this.link !== link) return;
    this.#drop(reason, false);
    this.#become("reconnecting", `${sentence(reason)} Connecting again; your settings are kept.`);
  }

  /** No connection came of it: an error, or the reason that the link ended with. */
  #giveUp(why) {
    this.#drop("failed");
    throw why instanceof Error ? why : new api.ServerError(why);
  }

  #made(iceServers) {
    const { source, ticket, camera, canvas, codec, store } = this;
    const current = (then) => (...given) => this.link === link && then(...given); // an old one may still say something
    const told = {
      message: current((message) => this.#heard(message)),
      picture: current((stream) => this.told.picture(stream)),
      drawn: current((captured, at) => this.#drawn(captured, at)),
    };
    const common = { source, ticket, told, settings: store.differences(), shape: () => store.values };
    const byRtc = source.joins || (this.wanted !== "websocket" && !this.fellBack && "RTCPeerConnection" in window);
    const link = byRtc ? new RtcLink({ ...common, codec, iceServers }) : new SocketLink({ ...common, camera, canvas });
    return link;
  }

  #opened({ settings, state, notice }, revision) {
    Object.assign(this, { ticket: null, place: null });
    this.latency.clear();
    this.#open.clear();
    if (this.store.revision === revision || this.source.joins) this.store.adopt(settings);
    else this.#ask(this.store.differences(settings)); // changed while connecting
    if (document.hidden) this.send({ type: "hidden", hidden: true });
    if (!this.heardAt) this.#become(state, notice); // else the control channel was faster, and knows better
    this.heardAt = performance.now();
  }

  /** What follows from an error: the wait in ms until the next try, or null for none. */
  #failed(error, failures) {
    const { status, queue, wait } = error;
    this.refusal = status;
    if (this.source.joins && (status === ABSENT || error instanceof NoWay)) return this.#absent(error);
    if (error instanceof NoWay) return this.#fallBack();
    if (queue) return this.#queue(error);
    if (OURS.includes(status) && Object.keys(this.store.differences()).length) return this.#forget(error);
    const passing = status === 0 || status === 429 || status >= 500;
    if (status && !passing) return this.#become("refused", error.message), null;
    if (!("status" in error)) console.warn(error); // the browser's own: worth a line for those who look
    this.#become("reconnecting", `${sentence(error.message)} Trying again; your settings are kept.`);
    return status === 429 ? Math.max(wait, 1000) : WAITS[Math.min(failures + 1, WAITS.length - 1)];
  }

  #fallBack() {
    this.fellBack = true;
    return 1;
  }

  /** What is to be joined is not there, or not there yet: an OBS that starts again, a server that comes back. */
  #absent({ status }) {
    const { joins } = this.source;
    const why = status === ABSENT ? `Nothing is on as "${joins}" now.` : "WebRTC does not get through from here.";
    this.#become("reconnecting", `${why} The page goes on by itself when it is there.`);
    return PATIENCE;
  }

  #queue({ message, queue, wait }) {
    Object.assign(this, { ticket: queue.ticket, place: queue.place });
    this.#become("queued", message);
    return Math.max(wait, 500);
  }

  #forget({ message }) {
    this.store.reset();
    this.told.settings(`${sentence(message)} The model's own settings are used.`);
    return 1;
  }

  /** Waits, unless something makes a new try worth while at once. */
  async #rest(ms) {
    this.rest = new AbortController();
    await pause(ms, this.rest.signal);
  }

  #hurry() {
    if (this.state !== "queued") this.rest?.abort();
  }

  // ---------------------------------------------------------------------------------------------- messages

  send(message) {
    this.link?.send(message);
  }

  /** `told(message)` for every message of a type, and at once for the newest that was there before. */
  on(type, told) {
    this.#listeners.set(type, [...(this.#listeners.get(type) ?? []), told]);
    if (this.#said.has(type)) told(this.#said.get(type));
  }

  #heard(message) {
    this.heardAt = performance.now();
    const follow = {
      hello: () => this.#welcomed(message),
      state: () => this.#become(message.state, message.notice),
      stats: () => (this.#timed(message), (this.stats = message)),
      frames: () => this.matching.captured(message.at),
      settings: () => this.#answered(message),
      loras: () => this.told.loras(message),
      error: () => this.told.settings(message.error),
      bye: () => ((this.ticket = message.queue?.ticket ?? null), this.link?.close(message.reason)),
    };
    follow[message.type]?.();
    this.#said.set(message.type, message);
    for (const told of this.#listeners.get(message.type) ?? []) told(message);
  }

  #welcomed(message) {
    this.#timed(message);
    this.told.model(message.model);
    this.#become(message.state, message.notice);
  }

  /** When it has to make room for those who wait, as soon as somebody does. */
  #timed({ ends_in_s: left = null }) {
    this.endsAt = left === null ? null : performance.now() + left * 1000;
  }

  /** Whether this page may change nothing of the session that it shows. */
  get #looksOn() {
    return Boolean(this.source?.joins && !this.source.may);
  }

  #ask(changes) {
    if (this.#looksOn) return;
    if (this.link && ["width", "height", "fit"].some((name) => name in changes)) this.link.reshape();
    this.send({ type: "settings", id: (this.#asked += 1), changes });
    for (const name of Object.keys(changes)) this.#open.set(name, this.#asked);
  }

  /** What holds after a change, by this page or (id null) another. It must not undo what was changed here since. */
  #answered({ id, settings, error }) {
    for (const [name, number] of this.#open) if (id !== null && number <= id) this.#open.delete(name);
    const newest = id === null || id >= this.#asked;
    if (newest) this.store.adopt(only(settings, (name) => !this.sender.holds(name) && !this.#open.has(name)));
    this.told.settings(error ?? "");
    for (const [number, resolve] of this.#answers) {
      if (id !== null && number <= id) this.#resolve(number, resolve, { settings, error });
    }
  }

  #resolve(number, resolve, answer) {
    this.#answers.delete(number);
    resolve(answer);
  }

  /** Changes one setting; resolves with the server's answer `{settings, error}`, or null where none is to come. */
  set(name, value) {
    if (this.#looksOn) return Promise.resolve(null);
    const [revision, asked] = [this.store.revision, this.#asked];
    this.store.change({ [name]: value });
    if (!this.link?.id || this.store.revision === revision) return Promise.resolve(null);
    const number = this.#asked > asked ? this.#asked : asked + 1; // sent, or waiting for the next
    return new Promise((resolve) => this.#answers.set(number, resolve));
  }

  #become(state, notice = "") {
    if (state === this.state && notice === this.notice) return;
    Object.assign(this, { state, notice });
    this.told.state(this);
  }

  // ---------------------------------------------------------------------------------------------- clocks

  /** A painted frame of the video track is on the screen. */
  shown({ rtpTimestamp, expectedDisplayTime }) {
    if (rtpTimestamp !== undefined) this.matching.shown(rtpTimestamp, wallClock(expectedDisplayTime));
    this.told.painted();
  }

  /** A painted picture of the WebSocket is on the screen. */
  #drawn(captured, at) {
    this.latency.add(wallClock(at) - captured);
    this.told.painted();
  }

  #report() {
    const { p50, p95, count } = this.latency.figures();
    if (count && !document.hidden) this.send({ type: "latency", p50, p95, count });
  }

  #seen() {
    this.send({ type: "hidden", hidden: document.hidden });
    this.heardAt = performance.now(); // timers stood still: start counting anew
    if (!document.hidden) this.#hurry();
  }

  /** Notices a server that went without a word: asks it about the session as soon as it is silent. */
  async #watch() {
    const { link } = this;
    const silent = performance.now() - this.heardAt;
    if (!link?.id || !this.heardAt || this.probing || silent < SILENCE) return; // connecting has limits of its own
    this.probing = true;
    const alive = await api.statistics(link.id, SILENCE).then(() => true, ({ status }) => [401, 403].includes(status));
    this.probing = false;
    if (this.link !== link) return;
    if (!alive) link.close("The server went away.");
    else if (silent > GONE) link.close("The connection is dead.");
  }

  /** The page goes: frees the place at once. Should it come back (from the browser's cache), the loop goes on. */
  leave() {
    this.#drop("left");
  }
}
