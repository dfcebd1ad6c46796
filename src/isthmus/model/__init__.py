"""Frozen domain types: labels, selectors, identities, endpoints, mesh events, flows.

The ground floor: everything may import it, it imports nothing of ours, and nothing in it does I/O.
"""
