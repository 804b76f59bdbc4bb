"""The documentation: examples parse, links are valid, every file is named, lines are short."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]
STRUCTURE = (ROOT / "docs" / "structure.md").read_text()
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def examples(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of the page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@EACH_PAGE
def test_docs_python_examples_are_python(page: Path) -> None:
    assert all(ast.parse(example).body for example in examples(page, "python"))


@EACH_PAGE
def test_docs_json_examples_are_json(page: Path) -> None:
    texts = [text if text.startswith("{") else f"{{{text}}}" for text in examples(page, "json")]  # or one member of one
    assert all(isinstance(json.loads(text), dict) for text in texts)


@EACH_PAGE
def test_docs_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


@EACH_PAGE
def test_docs_lines_are_short(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_docs_structure_names_every_module() -> None:
    modules = [path for path in (ROOT / "llamafast").rglob("*.py") if "formats" not in path.parts]
    modules += (ROOT / "llamafast").glob("*.pyx")
    names = {path.stem if path.suffix == ".pyx" else path.name for path in modules} - {"__init__.py"}
    assert {name for name in names if not re.search(rf"\b{name}\b", STRUCTURE)} == set()


def test_docs_structure_names_no_file_that_is_gone() -> None:
    named = set(re.findall(r"\b\w+\.(?:py|pyx|pxd)\b", STRUCTURE))
    files = {path.name for room in ("llamafast", "tests", "tools") for path in (ROOT / room).rglob("*.p*")}
    assert named - files == {"setup.py"}


def test_docs_of_benchmarks_name_every_script() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert [path.name for path in (ROOT / "benchmarks").glob("bench_*.py") if path.name not in text] == []


def test_benchmarks_all_have_the_quick_form_that_their_readme_runs() -> None:
    scripts = (ROOT / "benchmarks").glob("bench_*.py")
    assert [path.name for path in scripts if '"--quick"' not in path.read_text()] == []
