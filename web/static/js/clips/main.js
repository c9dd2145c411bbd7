/** Waits for the server, makes the page of clips, and shows it to tests and consoles as `window.clips`. */

import { $, pause } from "../dom.js";
import { NO_SERVER, sentence } from "../words.js";
import * as api from "./api.js";
import { Editor } from "./editor.js";
import { Jobs, moving, still, words } from "./jobs.js";

const [status, player, preview, empty] = [$("#status"), $("#player"), $("#preview"), $("#empty")];
let watched = null; // the clip that the screen waits for

function say(text, tone) {
  status.textContent = text;
  document.body.dataset.tone = tone;
}

/** The server's facts, however long it takes to come up. */
async function described() {
  for (;;) {
    try {
      return await api.facts();
    } catch (error) {
      say(error.status ? sentence(error.message) : NO_SERVER, "bad");
      await pause(1000);
    }
  }
}

/** A clip that is there, playing. */
function play(video) {
  watched = null;
  empty.hidden = true;
  preview.hidden = !still(video);
  player.hidden = still(video);
  if (still(video)) {
    preview.src = api.content(video.id);
    return;
  }
  player.src = api.content(video.id);
  player.play().catch(() => {}); // a browser may want a gesture first
}

/** What it looks like so far. */
function peek(video) {
  if (!video.preview) return;
  player.pause();
  player.hidden = empty.hidden = true;
  preview.hidden = false;
  preview.src = `.${video.preview}`;
}

const editor = new Editor(await described());
const jobs = new Jobs(
  { jobs: $("#jobs"), gallery: $("#gallery"), titles: { jobs: $("#jobs-title"), gallery: $("#gallery-title") } },
  {
    show: (video) => {
      play(video);
      $("#screen").scrollIntoView({ block: "nearest", behavior: "smooth" });
    },
    edit: (video) => api.manifest(video.id).then(({ timeline }) => {
      editor.open(timeline);
      scrollTo({ top: 0, behavior: "smooth" });
    }).catch(fail),
    fail,
  },
);

function fail(error) {
  editor.wrong(error.message, error.param);
}

api.follow((news) => {
  jobs.take(news);
  const running = jobs.videos.find((v) => v.status === "in_progress");
  const waiting = jobs.videos.filter((v) => v.status === "queued").length;
  if (running) say(`${sentence(words(running)).slice(0, -1)} · ${running.progress} %`, "wait");
  else say(waiting ? `${waiting} waiting` : "Ready", waiting ? "wait" : "");
  const mine = jobs.videos.find((v) => v.id === watched);
  if (mine?.status === "completed") play(mine);
  else if (mine && moving(mine)) peek(mine);
}, (lost) => lost && say(NO_SERVER, "bad"));

$("#render").addEventListener("click", async () => {
  $("#render").disabled = true;
  const made = await editor.render();
  $("#render").disabled = false;
  if (made) watched = made.id;
});

window.clips = { editor, jobs, get watched() { return watched; } };
