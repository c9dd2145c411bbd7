"""Every operation of the OpenAPI document, asked with what schemathesis makes of it, right and wrong, always the same.

No answer is a 500, every status is one that the document knows, and every body is as it says.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis
from schemathesis.checks import CHECKS
from webrig import FakeAnswers, FakeLink, FakeSupervisor, Served, served

from stream.config import Lora, ModelSpec
from stream.settings import Settings
from web.app import create_app
from web.config import Config, Control
from web.media.ice import RestartError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "4"))  # of each operation
SPEC = ModelSpec("fake", "fake", settings=Settings.checked(width=64, height=64), loras=(Lora("ink.safetensors", 0.0),))
SCHEMA = schemathesis.openapi.from_dict(create_app(Config(), FakeSupervisor(SPEC)).openapi())  # type: ignore[arg-type]
CONTROL = {
    ("GET", "/api/presets"), ("POST", "/api/presets"), ("GET", "/api/presets/{name}"), ("PUT", "/api/presets/{name}"),
    ("DELETE", "/api/presets/{name}"), ("POST", "/api/sessions/{session}/morph"), ("GET", "/api/beat"),
    ("PUT", "/api/beat"), ("POST", "/api/beat/tap"), ("GET", "/api/sessions/{session}/follows"),
    ("PUT", "/api/sessions/{session}/follows/{setting}"), ("DELETE", "/api/sessions/{session}/follows/{setting}"),
    ("GET", "/api/midi"), ("PUT", "/api/midi"), ("POST", "/api/midi/learn"), ("GET", "/api/osc"),
}  # fmt: skip
SAID = ("application/sdp", "application/trickle-ice-sdpfrag")
THERE = {"session": ["live"], "setting": ["strength", "steps", "prompt"], "name": ["calm", "Neon night", "live"]}
NAMES = ("status_code_conformance", "content_type_conformance", "response_schema_conformance",
         "response_headers_conformance")  # fmt: skip


@schemathesis.serializer(*SAID)
def plainly(_context: Any, value: Any) -> bytes:
    """Offers are text."""
    return str(value).encode("utf-8", "replace")


class Ice:
    """The ICE of a connection by hand: every candidate is taken, and a restart is not possible."""

    tag, remote, section = "1", None, None

    async def trickle(self, candidates: Any) -> None: ...

    async def restart(self, credentials: Any, candidates: Any) -> Any:
        raise RestartError("nothing is open: begin anew")


class Connections(FakeAnswers):
    """Every offer is answered, also of WHIP and WHEP."""

    async def __call__(self, offer_sdp: str, **more: Any) -> tuple[FakeLink, str]:
        link, answer = await super().__call__(offer_sdp, **more)
        link.ice = Ice()  # type: ignore[attr-defined]
        return link, answer


MANY = 30  # cases of an operation that all run; of the boundaries that schemathesis makes beyond, every fourth
seen: Counter[str] = Counter()


def is_one_too_many(operation: str) -> bool:
    """Whether a case is left out, so that the whole stays short: by count alone, the same each time."""
    seen[operation] += 1
    return EXAMPLES <= 4 and seen[operation] > MANY and seen[operation] % 4 != 0


def checks() -> list[Any]:
    """Of schemathesis, those that hold for every answer."""
    return [CHECKS.get_one(name) for name in NAMES]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fuzz")
    given = {"worker": FakeSupervisor(SPEC), "answers": Connections(), "control": Control(folder=folder)}
    with contextlib.chdir(folder), served(**given) as running:  # an output could be a file
        yield running


@pytest.fixture(scope="module")
def asks() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture
def stage(server: Served) -> Served:
    """The server with its standing session, and a preset."""

    def ready() -> None:
        house = server.house
        if "live" not in house.sessions.standing:
            house.sessions.stand("live", "whip")
        house.sessions.hub.presets.save("calm", {"strength": 0.2})

    server.call(ready)
    return server


@SCHEMA.parametrize()
@hypothesis(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
            phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))  # fmt: skip
def test_every_answer_is_one_that_the_document_knows(
    case: schemathesis.Case, stage: Served, asks: requests.Session
) -> None:
    if is_one_too_many(case.operation.label):
        return
    rng = random.Random(repr((case.path_parameters, case.body)))
    for name, known in THERE.items():  # else nearly every path would be of nothing
        if name in case.path_parameters and rng.random() < 0.6:
            case.path_parameters[name] = rng.choice(known)
    answer = case.call(base_url=stage.url, session=asks, timeout=10)
    assert answer.status_code < 500 or answer.status_code == 503, (case.as_curl_command(), answer.text)
    case.validate_response(answer, checks=checks())
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error if isinstance(error, str) else error["message"]


def test_every_operation_of_live_control_is_among_them() -> None:
    listed = {(result.ok().method.upper(), result.ok().path) for result in SCHEMA.get_all_operations()}
    assert listed >= CONTROL
    assert len(listed) > len(CONTROL) + 15
