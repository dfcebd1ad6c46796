"""Probes: when to ask a container how it is, how, and what follows from the answers."""
