"""Conversations to prompts: the chat template, and the messages in the form that it reads."""
