/** A phone comes in by a QR code, which the server makes: for a while it lets in whoever holds it. */

import { address, refusal } from "./api.js";
import { $, make } from "./dom.js";
import { dialog, note } from "./section.js";
import { sentence } from "./words.js";

const TEXT = "Point your phone's camera at it. Both have to be in the same network; the phone's own camera needs https.";

export function offerPhone(page) {
  $("#show-phone").hidden = false;
  $("#show-phone").onclick = () => show(page.source?.joins);
}

/** A code of now: it is over after a few minutes. */
async function show(session) {
  $("#phone")?.remove();
  const [code, told] = [make("img", { class: "code", alt: "QR code of this page's address", hidden: true }), note()];
  const made = dialog("phone", "On your phone", code, told);
  made.showModal();
  const asked = session ? `?${new URLSearchParams({ session })}` : "";
  const answer = await fetch(address(`qr.svg${asked}`)).catch(() => null);
  if (!answer?.ok) return void (told.textContent = await why(answer));
  code.src = URL.createObjectURL(await answer.blob());
  made.addEventListener("close", () => URL.revokeObjectURL(code.src), { once: true });
  code.hidden = false;
  told.textContent = TEXT;
}

const why = async (answer) =>
  sentence(answer ? refusal(answer.status, await answer.json().catch(() => ({}))).message : "The server does not answer");
