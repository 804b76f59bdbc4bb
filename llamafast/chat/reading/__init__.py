"""Parsers that turn the text of an answer into events. The formats are built from them."""
