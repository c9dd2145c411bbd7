/** A worker that lays pictures into a shape and encodes them: on the page's own thread, JPEGs wait for idle moments. */

import { lay, resize } from "./fit.js";

const QUALITY = 0.85;
const paper = new OffscreenCanvas(1, 1);
const context = paper.getContext("2d", { alpha: false });

/** `{image, shape}`: a bitmap and `{width, height, fit}`. The answer is the JPEG as an ArrayBuffer. */
onmessage = async ({ data: { image, shape } }) => {
  resize(paper, [shape.width, shape.height]);
  lay(context, image, shape.fit, [image.width, image.height]);
  image.close();
  const blob = await paper.convertToBlob({ type: "image/jpeg", quality: QUALITY });
  const jpeg = await blob.arrayBuffer();
  postMessage(jpeg, [jpeg]);
};
