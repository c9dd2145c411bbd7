/** The page: which source is painted, and what is seen of the session. */

import { Controls } from "./controls.js";
import { Awake, keys } from "./display.js";
import { $, all, everyFrame, kept, make } from "./dom.js";
import { Loras } from "./loras.js";
import { Notices } from "./notice.js";
import { Overlay } from "./overlay.js";
import { Session } from "./session.js";
import { cameras, openSource, SourceError } from "./sources.js";
import { Store } from "./store.js";
import { showStyles } from "./styles.js";
import { drawCard } from "./testcard.js";
import { Tools } from "./tools.js";
import { FELL_BACK, UNPLUGGED, UNSHARED, words } from "./words.js";

const [camera, picture, fallback, frame] = ["#camera", "#picture", "#fallback", "#frame"].map((x) => $(x));

/** Made once the server has described itself: `facts` is `/api/schema`, `asked` the address's parameters. */
export class Page {
  source = null;
  lost = false; // a camera that should be there is not: it starts when one is plugged in
  state = "idle"; // the session's, or "connecting" from the moment that a source is there
  painted = 0; // pictures seen
  latency = { p50: null, p95: null, count: 0 }; // glass to glass, ms
  way = {}; // what the browser knows about the connection

  constructor(facts, asked) {
    Object.assign(this, { facts, asked });
    this.store = new Store(facts);
    this.notices = new Notices($("#notice"));
    this.overlay = new Overlay($("#overlay"));
    this.awake = new Awake();
    this.controls = new Controls(this.store, facts.model ?? {});
    this.loras = new Loras();
    this.session = this.#session();
    this.tools = new Tools(this);
    showStyles(facts.styles ?? [], this.store);
    this.store.listen((changes) => this.#shape(changes));
    this.#shape(this.store.values);
    this.#describe();
    this.#listen();
    keys();
    everyFrame(picture, (now, data) => this.session.shown(data));
    setInterval(() => this.#tick(), 500);
  }

  #session() {
    const told = {
      state: () => this.show(),
      settings: (error) => this.#blame(error),
      loras: (loras) => this.loras.show(loras),
      model: ({ name }) => this.#compareModel(name),
      picture: (stream) => play(picture, stream),
      painted: () => this.#painted(),
    };
    const [codec, wanted] = [this.asked.get("codec"), this.asked.get("transport")];
    return new Session({ store: this.store, camera, canvas: fallback, codec, wanted, told });
  }

  // ---------------------------------------------------------------------------------------------- sources

  /** Begins with the source at hand, or the one that the address asks for. */
  connect(kind = this.source?.kind ?? this.asked.get("source") ?? "camera") {
    if (this.source?.kind === kind) return this.session.start(this.source);
    return this.begin(kind);
  }

  /** Opens a source and paints it; what goes wrong is told. */
  async begin(kind, options = {}) {
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
    play(camera, source.stream);
    this.tools.mirror(source.mirrored ? (kept.get("mirror") ?? true) : false);
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
    select.hidden = this.source?.kind !== "camera" || found.length < 2;
    select.replaceChildren(...found.map(({ id, label }) => make("option", { value: id, text: label })));
    if (!select.hidden) select.value = this.source.device;
    return found;
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
    const act = this.state === "refused" ? ["Try again", () => this.connect()] : null;
    const after = ["starting", "painting"].includes(this.state) ? 500 : 0; // what lasts a moment is nothing to tell
    this.notices.set("server", source ? notice : "", { kind, act, after });
    this.#sources();
    this.#link();
    this.awake.keep(this.state === "painting");
  }

  #sources() {
    const { kind } = this.source ?? {};
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
    $("#start-screen").hidden = !navigator.mediaDevices?.getDisplayMedia;
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
    const late = latency.count ? ` · ${Math.round(latency.p50)} ms` : "";
    $("#figures").textContent = session.state === "painting" && fps ? `${Math.round(fps)} fps${late}` : "";
    const { samples } = session.latency;
    this.overlay.show({ latency, samples, stats: session.stats, way: this.way, transport: session.link?.transport });
  }

  // ---------------------------------------------------------------------------------------------- wiring

  #listen() {
    for (const button of all("[data-source]")) button.onclick = () => this.begin(button.dataset.source);
    $("#start-file").onclick = () => $("#file").click();
    $("#file").onchange = ({ target }) => (this.#file(target.files[0]), (target.value = "")); // the same may come again
    $("#cameras").onchange = ({ target }) => (kept.set("camera", target.value), this.begin("camera"));
    $("#stop").onclick = () => this.stop();
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

function play(video, stream) {
  video.srcObject = stream;
  if (stream) video.play().catch(() => {}); // interrupted by the next source
}

