"""Row R8: malformed messages from a seed, at a running server; the bench sends 10,000 of them."""

from __future__ import annotations

from pathlib import Path

from tools.nonsense import Nonsense
from tools.rows_robust import r8
from tools.stage import Stage

COUNT = 2000
BODY = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
DOCUMENT = {"paths": {"/x": {"post": {"requestBody": BODY}}, "/y/{id}": {"get": {}}}}


def made(seed: int) -> list[object]:
    chance = Nonsense(seed)
    sdp = "v=0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n"
    return [make() for _ in range(300) for make in (
        chance.message, chance.datagram, chance.hello, lambda: chance.offer(sdp), lambda: chance.fragment(sdp),
        lambda: chance.request(DOCUMENT))]  # fmt: skip


def test_a_seed_is_a_seed() -> None:
    assert made(5) == made(5)
    assert made(5) != made(6)
    assert len(set(map(repr, made(5)))) > 1000


def test_malformed_messages_are_refused_at_once_and_leave_nothing(tmp_path: Path) -> None:
    """What must never happen, not even once. How long an answer takes on a busy machine is measured again."""
    for _ in range(2):
        row = r8(Stage(tmp_path, 1.0), COUNT)
        value = row.value
        assert not value["wrong"]
        assert not value["mistakes_logged"]
        assert all(value["left"][what] <= 0 for what in ("tasks", "threads", "files", "shared")), value["left"]
        assert value["messages"] > 0.95 * COUNT
        if row.holds:
            return
    raise AssertionError(value)
