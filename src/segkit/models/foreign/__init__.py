"""Other projects' names for the tensors of networks that are here, too: one file per project."""
