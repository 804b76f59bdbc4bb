"""Grammars that force a model's answer into a chat format."""
