"""The format that a configuration describes in `model.response_schema`."""
