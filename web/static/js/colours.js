/**
 * The colours of a captured tab, told rightly.
 *
 * Without a graphics card Chromium makes the pictures of a captured tab by BT.601 and tags them BT.709, so that green is
 * 0/215/1 wherever they are shown or sent. There, and only there, they get the tag that they should have.
 */

const TRUE = { matrix: "smpte170m", primaries: "bt709", transfer: "bt709", fullRange: false };

const SOFTWARE = /swiftshader|llvmpipe|softpipe|basic render/i;

function drawnBySoftware() {
  const gl = document.createElement("canvas").getContext("webgl");
  if (!gl) return true;
  const more = gl.getExtension("WEBGL_debug_renderer_info");
  const name = gl.getParameter(more ? more.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return SOFTWARE.test(name);
}

const wrong = (frame) => frame.format === "I420" && frame.colorSpace.matrix === "bt709" && !frame.colorSpace.fullRange;

/** The same picture under the right tag. */
async function retagged(frame) {
  const data = new Uint8Array(frame.allocationSize());
  const layout = await frame.copyTo(data);
  const { format, timestamp, duration, visibleRect: { width, height } } = frame;
  const facts = { format, timestamp, codedWidth: width, codedHeight: height, layout, colorSpace: TRUE };
  return new VideoFrame(data, duration === null ? facts : { ...facts, duration });
}

async function right(frame, controller) {
  if (!wrong(frame)) return controller.enqueue(frame);
  try {
    controller.enqueue(await retagged(frame));
  } finally {
    frame.close();
  }
}

/** A stream like `captured`, of a tab or a screen, in its true colours. */
export function trueColours(captured) {
  const [track] = captured.getVideoTracks();
  const mends = window.MediaStreamTrackProcessor && window.MediaStreamTrackGenerator;
  if (!mends || track.getSettings().displaySurface !== "browser" || !drawnBySoftware()) return captured;
  const made = new MediaStreamTrackGenerator({ kind: "video" });
  const { readable } = new MediaStreamTrackProcessor({ track, maxBufferSize: 1 });
  const mended = readable.pipeThrough(new TransformStream({ transform: right }, { highWaterMark: 1 }));
  mended.pipeTo(made.writable).catch(() => track.stop()); // nobody takes them any more
  return new MediaStream([made]);
}
