"""Conversations into prompts: the chat template, and messages as it reads them."""
