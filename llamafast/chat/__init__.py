"""Chat formats: templates that render prompts, and parsers that read the model's answers."""
