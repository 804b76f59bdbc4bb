"""Grammars that hold a model to a format."""
