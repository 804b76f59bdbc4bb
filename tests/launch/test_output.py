"""Output to a full pipe or a full disk does not block the server."""

from __future__ import annotations

import logging
import os

import pytest

from llamafast.launch.output import Output, OutputHandler


def test_output_line_reaches_the_descriptor() -> None:
    reader, writer = os.pipe()
    output = Output(writer)
    output.write("Grüße \udcff")
    output.flush(10)
    assert os.read(reader, 100).decode() == "Grüße \\udcff\n"


def test_output_to_a_full_pipe_drops_and_counts() -> None:
    reader, writer = os.pipe()
    output = Output(writer, max_lines=4)
    for _ in range(200):
        output.write("x" * 1000)  # a pipe holds 64 KiB
    output.flush(0.0)
    assert output.num_dropped > 0
    with os.fdopen(reader, "rb") as file:
        while b"could not be written" not in file.readline():
            output.write("again")


@pytest.mark.parametrize("path", ["/dev/full", os.devnull])
def test_output_full_or_closed_file_raises_nothing(path: str) -> None:
    output = Output(os.open(path, os.O_WRONLY))
    output.write("lost")
    output.flush(10)
    assert output.num_dropped == (path == "/dev/full")


def test_handler_wrong_arguments_are_a_line_too() -> None:
    reader, writer = os.pipe()
    output = Output(writer)
    record = logging.LogRecord("name", logging.ERROR, "", 0, "%d of %d", ("x",), None)
    OutputHandler(output).handle(record)
    output.flush(10)
    assert os.read(reader, 100).startswith(b"ERROR: '%d of %d'")
