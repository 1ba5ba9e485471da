"""What holds for every test."""

import os

# Before torch is imported: see cli.py. The command line sets it for itself.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
