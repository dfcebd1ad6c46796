"""What other clusters mean for the Services of a node: their backends, their nodes' health, drains, staleness."""
