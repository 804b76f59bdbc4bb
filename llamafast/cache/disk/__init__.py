"""Computed prefixes in a folder."""
