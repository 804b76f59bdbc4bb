"""Turns a chat request into the engine's request, and the outputs of each choice into events."""
