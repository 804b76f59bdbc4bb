"""Turns engine outputs into the JSON documents of each API, and frames them."""
