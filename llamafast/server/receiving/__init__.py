"""Request bodies on their way in: read, prepared in threads, given up when the client leaves."""
