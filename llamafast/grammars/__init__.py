"""Constraints on the output: what a schema, a regex or a list of choices allows next, without a model."""
