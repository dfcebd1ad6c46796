"""Mesh events to the store, and out of it again."""
