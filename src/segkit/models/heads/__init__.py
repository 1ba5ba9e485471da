"""One file per paper's head."""
