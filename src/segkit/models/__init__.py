"""Networks: backbones, heads, their joint, and the weights they start from (no Hydra in here)."""
