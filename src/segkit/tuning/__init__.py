"""The papers' cross-validation of the dense CRF's parameters (v1 §5, v2 §4.1.1)."""
