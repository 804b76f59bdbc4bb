"""Chat text: templates that make prompts, and parsers that take the model's answers apart."""
