"""Nodes that fall silent or go away, and the pods on them."""
