/** WebMIDI: control changes, notes and the pitch wheel of every input, as the bindings take them. */

const KINDS = { 8: "off", 9: "note", 11: "cc", 14: "bend" }; // upper half of the status byte (MIDI 1.0)

/** `{control, label, kind, value}` of a message, or null where it says nothing to us. */
export function read([status, one = 0, two = 0]) {
  const [kind, channel] = [KINDS[status >> 4], (status & 15) + 1];
  const on = `channel ${channel}`;
  if (kind === "cc") return { control: `midi:cc:${channel}:${one}`, label: `Knob ${one}, ${on}`, kind: "value", value: two / 127 };
  if (kind === "bend") return { control: `midi:bend:${channel}`, label: `Pitch wheel, ${on}`, kind: "value", value: ((two << 7) | one) / 16383 };
  if (kind === "note" && two) return { control: `midi:note:${channel}:${one}`, label: `Key ${one}, ${on}`, kind: "press", value: two / 127 };
  return null;
}

/** Asks the browser for MIDI, and listens to every input, also those that are plugged in later. */
export class Midi {
  inputs = []; // names

  /** `told(event)` for everything that moves, `changed()` when inputs come or go. */
  constructor(told, changed) {
    Object.assign(this, { told, changed });
  }

  static get there() {
    return "requestMIDIAccess" in navigator;
  }

  /** Rejects where the browser refuses. */
  async open() {
    this.access = await navigator.requestMIDIAccess();
    this.access.onstatechange = () => this.#listen();
    this.#listen();
  }

  #listen() {
    const connected = [...this.access.inputs.values()].filter(({ state }) => state !== "disconnected");
    for (const input of connected) input.onmidimessage = ({ data }) => this.#heard(data);
    this.inputs = connected.map(({ name }) => name ?? "MIDI input");
    this.changed();
  }

  #heard(data) {
    const event = read(data);
    if (event) this.told(event);
  }
}
