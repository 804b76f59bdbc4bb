"""Reads request bodies and prepares them in threads, until the client disconnects."""
