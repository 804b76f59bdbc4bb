"""The prefix cache: computed rows of the KV memory that later prompts can reuse."""
