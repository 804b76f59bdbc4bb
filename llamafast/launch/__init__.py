"""Starts the program: the command line, the configuration, model files, and the running server."""
