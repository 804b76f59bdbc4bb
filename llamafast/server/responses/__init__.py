"""Responses: from a body and its history to a chat, background runs, and what is stored of them."""
