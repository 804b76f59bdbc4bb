"""The laws of import inside the chat room: each folder imports only the folders below it, for types too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import llamafast.chat

ROOM = Path(llamafast.chat.__file__).parent
# What each folder may import of the others; the modules of the room itself count as "chat".
BELOW = {
    "prompt": {"chat"},
    "enforcing": {"chat"},
    "reading": {"chat"},
    "formats": {"chat", "enforcing", "reading"},
    "response_schema": {"chat", "enforcing", "reading", "formats"},
}


def folders_imported_by(path: Path) -> set[str]:
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llamafast.chat."):
            name = str(node.module).split(".")[2]
            found.add(name if (ROOM / name).is_dir() else "chat")
    return found


@pytest.mark.parametrize("folder", BELOW)
def test_chat_folder_imports_only_the_folders_below_it(folder: str) -> None:
    strangers = {
        path.name: folders_imported_by(path) - BELOW[folder] - {folder} for path in (ROOM / folder).glob("*.py")
    }
    assert {name: found for name, found in strangers.items() if found} == {}


def test_chat_folders_are_all_named_in_the_laws() -> None:
    assert {path.parent.name for path in ROOM.glob("*/__init__.py")} == BELOW.keys()


@pytest.mark.parametrize("room", ["chat", "json_schema", "grammars"])
def test_room_imports_nothing_of_ours_for_types_alone(room: str) -> None:
    hidden = [
        path.name
        for path in (ROOM.parent / room).rglob("*.py")
        for block in ast.walk(ast.parse(path.read_text()))
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("llamafast")
    ]
    assert hidden == []
