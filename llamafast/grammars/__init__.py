"""Constraints on the output: the tokens that a schema, a regex, a grammar or a list of choices allows next."""
