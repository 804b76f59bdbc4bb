"""The HTTP server: OpenAI's API over one or several engines."""
