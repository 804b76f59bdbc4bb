"""One file per format in which models call tools."""
