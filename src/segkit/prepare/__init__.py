"""Data sets on disk, from what their owners publish: archives, downloads, trees of others."""
