"""One file per backbone family; each carries its own table of ImageNet weights."""
