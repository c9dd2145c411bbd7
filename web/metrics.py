"""Figures for Prometheus. Labels are of a few known values: no session, no address, no secret is among them.

figures = Figures()                 # counts what happens
figures.left(5.0, 31.0)
text = figures.text(sessions)       # and asks the sessions how they are
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from stream.errors import SettingsError
from web.access import Role, needs
from web.bodies import Problem
from web.errors import RefusalError
from web.offer import OfferError

if TYPE_CHECKING:
    from web.sessions import Sessions

STATES = ("painting", "starting", "restarting", "failed", "stopping")  # of a session
WORKER = ("starting", "ready", "restarting", "failed", "stopped")
OUTPUTS = ("starting", "running", "waiting", "stopped")
DROPS = {"overwritten_in": "in", "overwritten_out": "out", "skipped": "skipped", "failed": "failed"}
REASONS = {
    401: "token",
    403: "role",
    404: "gone",
    409: "gone",
    422: "settings",
    429: "rate",
    503: "full",
}  # by HTTP status
ENGINE_S = (0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1, 5)
SERVER_S = (0.01, 0.02, 0.033, 0.05, 0.075, 0.1, 0.15, 0.2, 0.35, 0.5, 1, 5)
LAG_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1)
router = APIRouter()


class Figures:
    """What happened since the start, in a registry of its own. Owned by the sessions."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.frames_in = Counter("livebrush_frames_in", "Pictures that came.", registry=self.registry)
        self.frames_out = Counter("livebrush_frames_out", "Painted pictures that left.", registry=self.registry)
        self._dropped = self._counter(
            "livebrush_frames_dropped", "Pictures left out, and why.", "where", DROPS.values()
        )
        self._refused = self._counter("livebrush_offers_refused", "Offers refused, and why.", "reason",
                                      (*dict.fromkeys(REASONS.values()), "offer", "other"))  # fmt: skip
        self._bytes = self._counter("livebrush_bytes", "Bytes of media connections.", "direction", ("in", "out"))
        self._engine = self._histogram("livebrush_engine_seconds", "What the engine took for a picture.", ENGINE_S)
        self._server = self._histogram("livebrush_server_seconds", "From a picture's coming to its leaving.", SERVER_S)
        self._lag = self._histogram("livebrush_event_loop_lag_seconds", "How late the event loop was.", LAG_S)

    def _counter(self, name: str, about: str, label: str, values: Iterable[str]) -> Counter:
        """A counter whose every series is there from the start."""
        made = Counter(name, about, (label,), registry=self.registry)
        for value in values:
            made.labels(value)
        return made

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, about, buckets=buckets, registry=self.registry)

    def left(self, engine_ms: float, server_ms: float | None) -> None:
        """A painted picture leaves; `server_ms` since its input came, where that is known."""
        self.frames_out.inc()
        self._engine.observe(engine_ms / 1000)
        if server_ms is not None:
            self._server.observe(server_ms / 1000)

    def dropped(self, before: Any, now: Any) -> None:
        """A stream's `Counts` have grown."""
        for name, where in DROPS.items():
            self._dropped.labels(where).inc(max(0, getattr(now, name) - getattr(before, name)))

    def moved(self, before: Mapping[str, int], now: Mapping[str, int]) -> None:
        """A connection's bytes, `in` and `out`, have grown."""
        for direction in ("in", "out"):
            self._bytes.labels(direction).inc(max(0, now.get(direction, 0) - before.get(direction, 0)))

    def late(self, seconds: float) -> None:
        """The event loop came back so much later than it was asked to."""
        self._lag.observe(max(0.0, seconds))

    @contextmanager
    def offered(self) -> Iterator[None]:
        """Counts an offer that is refused within."""
        try:
            yield
        except RefusalError as error:
            self._refused.labels(REASONS.get(error.status, "other")).inc()
            raise
        except (OfferError, SettingsError) as error:
            self._refused.labels("offer" if isinstance(error, OfferError) else "settings").inc()
            raise

    def text(self, sessions: Sessions) -> bytes:
        """All of it, as Prometheus reads it."""
        now = CollectorRegistry()
        now.register(Now(sessions))
        return generate_latest(self.registry) + generate_latest(now)


class Now(Collector):
    """How the sessions are at this moment."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        all_of, worker = list(self._sessions), self._sessions.world.supervisor
        yield gauges("livebrush_sessions", "Sessions by state.", "state", STATES, Tally(s.state for s in all_of))
        yield gauges("livebrush_worker", "1 for the state of the worker.", "state", WORKER, {worker.state: 1})
        sinks: Tally[str] = Tally(output.state for s in all_of for output in s.outputs.facts())
        yield gauges("livebrush_outputs", "Outputs by state.", "state", OUTPUTS, sinks)
        values = {
            "livebrush_sessions_standing": ("Sessions that have a name.", len(self._sessions.standing)),
            "livebrush_sessions_limit": ("Sessions of pages at once.", self._sessions.limit),
            "livebrush_waiting": ("Pages in the queue.", self._sessions.summary().waiting),
            "livebrush_viewers": ("Pages that look on.", sum(len(s.viewers) for s in all_of)),
            "livebrush_fps_in": ("Pictures a second that come, of all sessions.", sum(s.fps_in for s in all_of)),
            "livebrush_fps_out": ("Painted pictures a second, of all sessions.", sum(s.fps for s in all_of)),
        }
        for name, (about, value) in values.items():
            yield GaugeMetricFamily(name, about, value=value)
        yield CounterMetricFamily("livebrush_restarts", "How often the worker began again.", value=worker.restarts)


def gauges(name: str, about: str, label: str, known: Iterable[str], values: Mapping[str, int]) -> GaugeMetricFamily:
    """A gauge for each of the known values of a label."""
    made = GaugeMetricFamily(name, about, labels=[label])
    for value in known:
        made.add_metric([value], values.get(value, 0))
    return made


@router.get(
    "/metrics",
    responses={
        200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."},
        403: {"model": Problem, "description": "Another site's request, or the role is too small."},
    },
    response_class=Response,
    tags=["server"],
    dependencies=[needs(Role.VIEW)],
)
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    sessions = request.app.state.house.sessions
    return Response(sessions.world.figures.text(sessions), media_type=CONTENT_TYPE_LATEST)
