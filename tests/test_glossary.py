"""The glossary is in alphabetical order, and every module that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()


def test_glossary_terms_are_in_alphabetical_order() -> None:
    terms = [term.lower() for term in re.findall(r"^- \*\*(.+?)\*\*", GLOSSARY, re.MULTILINE)]
    assert terms and terms == sorted(terms)


def test_glossary_names_no_module_that_is_gone() -> None:
    modules = re.findall(r"`([\w/]+\.pyx?)`", GLOSSARY)
    assert modules and [name for name in modules if not (ROOT / "llamafast" / name).exists()] == []
