"""What the server says no with.

LivebrushError
├── ServeError     the server cannot start as asked
└── RefusalError   a request that is not answered as asked, with its HTTP status
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream.errors import LivebrushError


class ServeError(LivebrushError):
    """The server cannot start as asked."""


class RefusalError(LivebrushError):
    """A request that cannot be answered as asked: `status` of HTTP, `headers`, and what else the body tells."""

    def __init__(self, status: int, error: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(error)
        self.status, self.headers, self.more = status, dict(headers or {}), more

    @property
    def body(self) -> dict[str, Any]:
        """The body of the HTTP answer."""
        return {"error": str(self), **self.more}

    def told(self, path: str) -> dict[str, Any]:
        """The body of the answer to a request of that path: below /v1 in OpenAI's form."""
        if not path.startswith("/v1/"):
            return self.body
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        more = {name: self.more.get(name) for name in ("param", "code")}
        return {"error": {"message": str(self), "type": kind, **more}}
