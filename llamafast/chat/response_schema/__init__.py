"""The chat format that a configuration defines in `model.response_schema`."""
