"""Chat formats, one file per family of models. A new file is found by itself (registry.py)."""
