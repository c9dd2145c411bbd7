/** The page: which source is painted, and what is seen of the session. */

import * as api from "./api.js";
import { Blend } from "./blend.js";
import { Controls } from "./controls.js";
import { Awake, keys } from "./display.js";
import { $, all, everyFrame, kept, make, once, pause } from "./dom.js";
import { Loras } from "./loras.js";
import { Notices } from "./notice.js";
import { Overlay } from "./overlay.js";
import { Session } from "./session.js";
import { cameras, openSource, SourceError } from "./sources.js";
import { Store } from "./store.js";
import { showStyles } from "./styles.js";
import { drawCard } from "./testcard.js";
import { Tools } from "./tools.js";
import { FELL_BACK, JOINED, LOOKS_ON, SIGN_IN, UNPLUGGED, UNSHARED, sentence, words } from "./words.js";

const [camera, picture, fallback, frame] = ["#camera", "#picture", "#fallback", "#frame"].map((x) => $(x));

const ROLES = ["nobody", "view", "control", "admin"];
const AGAIN = 2000; // ms
const FIRST = 2000; // ms that the first picture has for itself
const MOST = 5000; // ms until what is not needed for the first picture is loaded

/**
 * Made once the server has described itself: `facts` is `/api/schema`, `asked` the address's parameters, `role` what
 * whoever looks at it may do.
 */
export class Page {
  source = null;
  lost = false; // a camera that should be there is not: it starts when one is plugged in
  state = "idle"; // the session's, or "connecting" from the moment that a source is there
  painted = 0; // pictures seen
  latency = { p50: null, p95: null, count: 0 }; // glass to glass, ms
  way = {}; // what the browser knows about the connection

  constructor(facts, asked, role = "admin") {
    Object.assign(this, { facts, asked, role });
    document.body.dataset.role = role;
    this.store = new Store(facts);
    this.blend = new Blend(this.store);
    this.notices = new Notices($("#notice"));
    this.overlay = new Overlay($("#overlay"));
    this.awake = new Awake();
    this.controls = new Controls(this.store, facts.model ?? {});
    this.loras = this.may("admin") ? new Loras() : null;
    this.session = this.#session();
    this.tools = new Tools(this);
    showStyles(facts.styles ?? [], this.store, this.blend);
    this.store.listen((changes) => this.#shape(changes));
    this.#shape(this.store.values);
    this.#describe();
    this.#listen();
    keys();
    everyFrame(picture, (now, data) => this.session.shown(data));
    setInterval(() => this.#tick(), 500);
    this.session.on("stats", () => this.#left());
    api.ice(); // so that they are there when a source is chosen
    idle(() => this.#more());
  }

  /** What is not needed for the first picture; once more where the network was away just then. */
  async #more() {
    if (this.begun && picture.readyState < 2) await Promise.race([once(picture, "loadeddata"), pause(FIRST)]);
    const { extras } = await import("./extras.js").catch(() => pause(AGAIN).then(() => import("./extras.js?again")));
    return extras(this);
  }

  /** Whether whoever looks at it may do what needs this role. */
  may(role) {
    return ROLES.indexOf(this.role) >= ROLES.indexOf(role);
  }

  #session() {
    const told = {
      state: () => this.show(),
      settings: (error) => this.#blame(error),
      loras: (loras) => this.loras?.show(loras),
      model: ({ name }) => this.#compareModel(name),
      picture: (stream) => play(picture, stream),
      painted: () => this.#painted(),
    };
    const [codec, wanted] = [this.asked.get("codec"), this.asked.get("transport")];
    return new Session({ store: this.store, camera, canvas: fallback, codec, wanted, told });
  }

  // ---------------------------------------------------------------------------------------------- sources

  /** Begins with the source at hand, or the one that the address asks for. */
  connect(kind = this.source?.kind ?? this.#wanted) {
    if (this.source?.kind === kind) return this.session.start(this.source);
    return kind === "join" ? this.join(this.asked.get("session")) : this.begin(kind);
  }

  get #wanted() {
    return this.asked.has("session") ? "join" : (this.asked.get("source") ?? "camera");
  }

  /** Shows a session that is there already, as one of its pages. */
  join(session) {
    return this.begin("join", { session, may: this.may("control") });
  }

  /** Opens a source and paints it; what goes wrong is told. */
  async begin(kind, options = {}) {
    this.begun = true;
    this.notices.set("source", "");
    try {
      const device = options.device ?? kept.get("camera");
      this.#use(await openSource(kind, this.store.values, { ...options, device }));
    } catch (error) {
      if (!(error instanceof SourceError)) throw error;
      this.lost = error.waits;
      this.notices.set("source", error.message, { kind: "bad" });
    }
  }

  #use(source) {
    const before = this.source;
    this.source = source;
    this.lost = false;
    source.ended = () => this.#ended(source);
    if (source.joins) this.store.borrow();
    else this.store.giveBack();
    play(camera, source.stream);
    this.tools.mirror(source.mirrored ? (kept.get("mirror") ?? true) : false);
    this.tools.flip(source.kind === "camera" ? (kept.get("flip") ?? false) : false);
    this.notices.set("done", source.joins ? (source.may ? JOINED : LOOKS_ON) : "", { lasts: 8000 });
    this.session.start(source);
    before?.stop();
    this.#cameras();
    this.show();
  }

  stop() {
    this.lost = false;
    if (this.tools.recorder.on) this.tools.record();
    this.session.stop();
    this.source?.stop();
    this.source = camera.srcObject = picture.srcObject = null;
    this.store.giveBack();
    this.show();
  }

  /** The source ended by itself: unplugged, or the browser's own button. */
  #ended(source) {
    if (source !== this.source) return;
    this.stop();
    this.lost = source.kind === "camera";
    this.notices.set("source", this.lost ? UNPLUGGED : UNSHARED, { kind: "wait" });
  }

  /** Cameras came or went. */
  async #plugged() {
    const found = await this.#cameras();
    if (this.lost && found.length) await this.begin("camera");
  }

  async #cameras() {
    const found = await cameras();
    const select = $("#cameras");
    select.hidden = $("#turn").hidden = this.source?.kind !== "camera" || found.length < 2;
    select.replaceChildren(...found.map(({ id, label }) => make("option", { value: id, text: label })));
    if (!select.hidden) select.value = this.source.device;
    return found;
  }

  /** The next camera: on a phone, the one on its other side. */
  async turn() {
    const found = await cameras();
    const now = found.findIndex(({ id }) => id === this.source?.device);
    const { id } = found[(now + 1) % found.length];
    kept.set("camera", id);
    this.begin("camera");
  }

  #file(file) {
    if (file) this.begin("file", { file });
  }

  // ---------------------------------------------------------------------------------------------- what is seen

  /** Everything that follows from the session's state. */
  show() {
    const { session, source } = this;
    this.state = session.state === "idle" && source ? "connecting" : session.state;
    const { word, tone, notice, kind } = words({ ...session, state: this.state });
    document.body.dataset.state = source ? this.state : "idle";
    document.body.dataset.tone = tone;
    if ($("#status").textContent !== word) $("#status").textContent = word; // a screen reader hears it once
    const again = session.refusal === 401 ? SIGN_IN : ["Try again", () => this.connect()];
    const act = this.state === "refused" ? again : null;
    const after = ["starting", "painting"].includes(this.state) ? 500 : 0; // what lasts a moment is nothing to tell
    this.notices.set("server", source ? notice : "", { kind, act, after });
    this.#queue();
    this.#sources();
    this.#link();
    this.awake.keep(this.state === "painting");
  }

  /** The place in the queue, in the middle of the stage. */
  #queue() {
    const { state, place, notice } = this.session;
    $("#queue").hidden = state !== "queued";
    if (state !== "queued" || $("#place").textContent === String(place)) return;
    $("#place").textContent = place;
    $("#queue-why").textContent = sentence(notice.split(":")[0]);
  }

  #sources() {
    const { kind } = this.source ?? {};
    document.body.dataset.source = kind ?? "";
    for (const button of all("[data-source]")) button.setAttribute("aria-pressed", button.dataset.source === kind);
    $("#compare").disabled = this.source?.stream === null;
    if (this.source && !this.source.stream) this.tools.toggleCompare(false);
  }

  /** Which element shows the painted picture; nothing painted is shown of a connection that is gone. */
  #link() {
    const { link, fellBack } = this.session;
    if (!link?.id) delete frame.dataset.painted;
    const socket = link?.transport === "websocket";
    picture.hidden = socket;
    fallback.hidden = !socket;
    if (link === this.shownLink) return;
    this.shownLink = link;
    this.notices.set("transport", socket && fellBack ? FELL_BACK : "", { kind: "wait", lasts: 15_000 });
  }

  #painted() {
    if (!this.session.link?.id) return;
    frame.dataset.painted = "";
    this.painted += 1;
  }

  #shape(changes) {
    const { width, height, fit } = this.store.values;
    $("#stage").style.setProperty("--ratio", width / height);
    frame.dataset.fit = fit;
    if (["width", "height", "fit"].some((name) => name in changes)) this.source?.shape(this.store.values);
  }

  #describe() {
    const { model, version, sources, styles } = this.facts;
    $("#clips").hidden = !this.facts.clips;
    $("#model").textContent = [model?.name, version && `Livebrush ${version}`].filter(Boolean).join(" · ");
    $("#prompt").placeholder = styles?.[0] ?? "What should it look like?";
    $("#start-server").hidden = !sources?.includes("server");
    $("#hero-title").textContent = this.may("control") ? "What shall we paint?" : "Nothing to see yet";
    if (!this.may("control")) $("#hero-lead").textContent = "The picture begins by itself as soon as there is one.";
    $("#start-screen").hidden = !navigator.mediaDevices?.getDisplayMedia;
    for (const button of all("[data-source]")) button.title = $("b", button).textContent;
    drawCard($("#backdrop").getContext("2d"), 4, false);
  }

  /** The server may have come back with another model, whose settings this page does not know. */
  #compareModel(name) {
    if (name === undefined || name === this.facts.model?.name) return;
    const text = `The server paints with another model now (${name}): load the page anew for its settings.`;
    const act = ["Load anew", () => location.assign(location.pathname + location.search)];
    this.notices.set("page", text, { kind: "wait", act });
  }

  #blame(error) {
    const beside = this.controls.blame(error);
    this.notices.set("setting", beside ? "" : error, { kind: "bad", lasts: 10_000 });
  }

  /** Twice a second: figures in the bar and on the picture. */
  async #tick() {
    const { session } = this;
    this.way = (await session.link?.measure().catch(() => null)) ?? {};
    const latency = (this.latency = session.latency.figures());
    const fps = session.stats.fps_out;
    this.#left();
    const late = latency.count ? ` · ${Math.round(latency.p50)} ms` : "";
    $("#figures").textContent = session.state === "painting" && fps ? `${Math.round(fps)} fps${late}` : "";
    const { samples } = session.latency;
    this.overlay.show({ latency, samples, stats: session.stats, way: this.way, transport: session.link?.transport });
  }

  /** How long the session may go on, where the server has set an end. */
  #left() {
    const { endsAt, link } = this.session;
    const seconds = endsAt === null || !link?.id ? null : Math.max(0, Math.round((endsAt - performance.now()) / 1000));
    $("#left").hidden = seconds === null;
    if (seconds === null) return;
    $("#left").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} left`;
    $("#left").classList.toggle("soon", seconds <= 30);
  }

  // ---------------------------------------------------------------------------------------------- wiring

  #listen() {
    for (const button of all("[data-source]")) button.onclick = () => this.begin(button.dataset.source);
    $("#start-file").onclick = () => $("#file").click();
    $("#file").onchange = ({ target }) => (this.#file(target.files[0]), (target.value = "")); // the same may come again
    $("#cameras").onchange = ({ target }) => (kept.set("camera", target.value), this.begin("camera"));
    $("#stop").onclick = $("#leave-queue").onclick = () => this.stop();
    $("#turn").onclick = () => this.turn();
    $("#reset").onclick = () => this.store.reset();
    navigator.mediaDevices?.addEventListener("devicechange", () => this.#plugged());
    addEventListener("hashchange", () => this.store.readAddress());
    addEventListener("pagehide", () => this.session.leave());
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => (event.preventDefault(), this.#file(event.dataTransfer.files[0])));
    addEventListener("paste", ({ clipboardData }) => this.#file(clipboardData.files[0]));
    addEventListener("beforeunload", (event) => this.tools.recorder.on && event.preventDefault());
  }
}

/** Calls it when the browser has nothing else to do. */
function idle(told) {
  if (globalThis.requestIdleCallback) requestIdleCallback(told, { timeout: MOST });
  else setTimeout(told, 500);
}

function play(video, stream) {
  video.srcObject = stream;
  if (stream) video.play().catch(() => {}); // interrupted by the next source
}

