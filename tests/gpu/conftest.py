"""These tests need a CUDA card: `pytest tests/gpu`. Elsewhere each is skipped, and says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from engines import TENSORRT, Choice, backend

CARD = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def card() -> Iterator[torch.device]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA card here, or torch is built without CUDA")
    yield CARD
    torch.cuda.synchronize()  # an error of a test's own kernels is that test's


@pytest.fixture(params=["torch", *TENSORRT])
def choice(request: pytest.FixtureRequest, card: torch.device) -> Choice:
    """Every back end that runs on this card, in half precision."""
    missing = backend(request.param).missing()
    if missing is not None:
        pytest.skip(f"{request.param}: {missing}")
    return Choice(request.param, "cuda", "f16", "a test")
