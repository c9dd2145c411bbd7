/** Waits for the server, makes the page, and shows it to tests, consoles and scripts as `window.livebrush`. */

import * as api from "./api.js";
import { $, pause } from "./dom.js";
import { Notices } from "./notice.js";
import { Page } from "./page.js";
import { NO_SERVER, SIGN_IN } from "./words.js";

/** The server's description of itself, however long it takes to come up. */
async function described() {
  const notices = new Notices($("#notice"));
  for (;;) {
    try {
      const facts = await api.schema();
      notices.set("page", "");
      return facts;
    } catch (error) {
      const act = error.status === 401 ? SIGN_IN : null;
      notices.set("page", error.status ? error.message : NO_SERVER, { kind: "bad", act });
      await pause(1000);
    }
  }
}

function exposed(page) {
  const { session, store } = page;
  return {
    get session() { return session.id; },
    get state() { return page.state; },
    get stats() { return { ...session.stats, page: page.way }; },
    get latency() { return session.latency.figures(); },
    get transport() { return session.link?.transport ?? null; },
    get settings() { return { ...store.values }; },
    get painted() { return page.painted; },
    get role() { return page.role; },
    set: (name, value) => session.set(name, value),
    connect: (kind) => page.connect(kind),
    disconnect: () => page.stop(),
  };
}

const asked = new URLSearchParams(location.search);
const facts = await described();
const { role } = (await api.part("api/me").catch(() => null)) ?? { role: "admin" }; // a server that asks nobody
const page = new Page(facts, asked, role);
window.livebrush = exposed(page);
if (asked.get("autostart") === "1" || asked.has("session")) page.connect();
