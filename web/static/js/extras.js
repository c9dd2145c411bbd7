/** What the page has beside the picture and its settings; loaded when the first picture has no more use for the browser. */

import { Beat } from "./beat.js";
import { Outputs } from "./outputs.js";
import { offerPhone } from "./phone.js";
import { Presets } from "./presets.js";
import { offerServer } from "./remote.js";
import { Standing } from "./standing.js";
import { Surfaces } from "./surfaces.js";

/** Each part for itself: one that cannot be had takes none of the others away. */
export async function extras(page) {
  const made = {};
  page.extras = made;
  const parts = { standing: Standing };
  if (page.may("control")) Object.assign(parts, { presets: Presets, beat: Beat, surfaces: Surfaces });
  if (page.may("control")) offerPhone(page);
  if (page.may("admin")) parts.outputs = Outputs;
  if (page.may("admin")) offerServer(page);
  for (const [name, Part] of Object.entries(parts)) made[name] = new Part(page);
  await Promise.allSettled(Object.values(made).map((part) => part.ready));
  document.body.dataset.extras = "ready";
}
