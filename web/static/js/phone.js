/** A phone comes in by a QR code, which the server makes. */

import { address } from "./api.js";
import { $, make } from "./dom.js";
import { dialog } from "./section.js";

const CODE = "qr.svg";

/** Shows the button where the server makes codes. */
export async function offerPhone() {
  const there = await fetch(address(CODE)).then(({ ok }) => ok, () => false);
  $("#show-phone").hidden = !there;
  $("#show-phone").onclick = () => ($("#phone") ?? made()).showModal();
}

function made() {
  const code = make("img", { class: "code", src: CODE, alt: "QR code of this page's address", width: 280, height: 280 });
  const text = "Point your phone's camera at the code. Both have to be in the same network; cameras of phones need https.";
  return dialog("phone", "On your phone", code, make("p", { text }));
}
