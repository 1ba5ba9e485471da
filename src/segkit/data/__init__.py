"""Data: label sets, readers, training transforms and the loader."""
