"""The generated pages agree with the schemas and the declarations of settings."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("tool", "function", "page"),
    [("api_docs.py", "api_page", "api.md"), ("config_docs.py", "config_page", "configuration.md")],
)
def test_generated_docs_are_those_that_make_docs_writes(tool: str, function: str, page: str) -> None:
    text = runpy.run_path(str(ROOT / "tools" / tool))[function]()
    assert (ROOT / "docs" / page).read_text() == text, "run `make docs`"
