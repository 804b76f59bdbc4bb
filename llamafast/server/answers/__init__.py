"""Answers: engine outputs as the JSON documents of each API, and how these documents are framed."""
