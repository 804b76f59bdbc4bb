"""Answers into events: the readers that the formats are made of."""
