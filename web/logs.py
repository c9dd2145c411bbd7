"""What is logged, and how: lines above the status line, or one JSON object a line.

No secret is ever given to a logger: a session is named by its `label`, a visitor by the address.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from web.config import Logs

ROOMS = ("livebrush", "web", "stream", "engines")  # whose level is asked for; libraries tell warnings only
FACTS = ("event", "session", "reason", "address", "role")  # that a line of JSON may have besides


class Lines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told: dict[str, Any] = {
            "time": f"{now}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: getattr(record, name) for name in FACTS if hasattr(record, name)}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told)


def begin(logs: Logs, console: Console) -> None:
    """Sets logging up for the process, once. Libraries log requests and their headers in detail: not here."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler(logs, console)])
    level = logs.level or ("info" if logs.form == "json" else "warning")
    for room in ROOMS:
        logging.getLogger(room).setLevel(level.upper())


def handler(logs: Logs, console: Console) -> logging.Handler:
    """Where lines go: standard error, in text above the status line and without a hundred details."""
    if logs.form == "text":
        return RichHandler(console=console, show_path=False, show_time=False, markup=False)
    lines = logging.StreamHandler(console.file)
    lines.setFormatter(Lines())
    return lines
