"""Reads JSON Schema. Parsers and grammars use the same records, so that both agree on what a value is."""
