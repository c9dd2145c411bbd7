"""The browser's side: WebRTC peers, sessions, the page. Imports `stream`; never torch."""
