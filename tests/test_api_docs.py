"""docs/api.md says what the schemas say."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_api_docs_are_those_that_make_docs_writes():
    page = runpy.run_path(str(ROOT / "tools" / "api_docs.py"))["api_page"]()
    assert (ROOT / "docs" / "api.md").read_text() == page, "run `make docs`"
