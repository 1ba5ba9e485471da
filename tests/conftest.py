"""What holds for every test."""

import os
import signal

# Before torch is imported: see cli.py. The command line sets it for itself.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# A shell that starts the tests in the background has SIGINT ignored, and every child inherits that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
