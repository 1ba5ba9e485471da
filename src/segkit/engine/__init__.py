"""The engine: one readable training loop, the evaluation loop, checkpoints, the run record."""
