"""What a JSON Schema says, read in one way by parsers and grammars alike."""
