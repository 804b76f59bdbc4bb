"""From the body of a chat to what the engine takes, and what ends a choice."""
