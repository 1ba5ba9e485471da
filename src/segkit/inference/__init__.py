"""From a network to label maps: scales, flips and the dense CRF."""
