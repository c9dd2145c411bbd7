"""Presets, one TOML file each; `stream.config` reads them."""
