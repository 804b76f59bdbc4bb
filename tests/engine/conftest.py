"""The engine's tests run on fakes: no model, no context, no native sampler."""

from __future__ import annotations

import pytest

from llamafast.engine import prepare
from tests.engine.fakes import FakeSampler


@pytest.fixture(autouse=True)
def fake_sampler(request, monkeypatch):
    if "native" not in request.fixturenames:
        monkeypatch.setattr(prepare, "Sampler", FakeSampler)


@pytest.fixture
def native():
    """Asks for the native sampler."""
