/** Text inside a PNG: an international text chunk (iTXt, PNG specification 11.3.3.4) before the end of the file. */

const START = 8; // bytes of the signature, before the first chunk
const END = 12; // bytes of the last chunk, IEND

/** The PNG with `text` under `keyword`, both kept by picture programs. */
export async function withText(png, keyword, text) {
  const bytes = new Uint8Array(await png.arrayBuffer());
  const [head, tail] = [bytes.slice(0, -END), bytes.slice(-END)];
  return new Blob([head, chunk(keyword, text), tail], { type: "image/png" });
}

/** The text under `keyword` of a PNG; null where there is none. */
export async function textOf(png, keyword) {
  const data = new DataView(await png.arrayBuffer());
  for (let at = START; at + END <= data.byteLength; at += END + data.getUint32(at)) {
    const bytes = new Uint8Array(data.buffer, at + 4, Math.min(4 + data.getUint32(at), data.byteLength - at - 4));
    const text = new TextDecoder().decode(bytes);
    if (text.startsWith(`iTXt${keyword}\0`)) return text.slice(`iTXt${keyword}\0\0\0\0\0`.length);
  }
  return null;
}

function chunk(keyword, text) {
  const data = new TextEncoder().encode(`iTXt${keyword}\0\0\0\0\0${text}`);
  const made = new DataView(new ArrayBuffer(data.length + 8));
  made.setUint32(0, data.length - 4);
  new Uint8Array(made.buffer).set(data, 4);
  made.setUint32(data.length + 4, crc(data));
  return made.buffer;
}

/** CRC-32 as in ISO 3309. */
function crc(data) {
  let sum = 0xffffffff;
  for (const byte of data) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? (sum >>> 1) ^ 0xedb88320 : sum >>> 1;
  }
  return (sum ^ 0xffffffff) >>> 0;
}
