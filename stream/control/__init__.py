"""Live control: OSC, MIDI, presets, morphs and a beat, all on their way to the same settings. No web here."""
