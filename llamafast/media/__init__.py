"""Images and sounds from clients: where they may come from, and their bytes as pixels and samples."""
