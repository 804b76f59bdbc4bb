"""The HTTP face: OpenAI's API over an AsyncEngine."""
