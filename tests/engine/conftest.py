"""The engine's tests use fakes for the model, the context and the native sampler."""

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
    """Request the native sampler instead of the fake one."""
