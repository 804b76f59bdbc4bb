"""The disk cache: states of computed prefixes in a folder."""
