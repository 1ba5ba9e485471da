"""What a step will take on a device before one of its size has run."""
