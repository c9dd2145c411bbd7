"""Clips: offline video. A `Timeline` says what; a back end of `families` renders it; `make` writes the file."""
