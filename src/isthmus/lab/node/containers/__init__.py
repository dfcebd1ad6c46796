"""Containers: their runs, what they write, their files."""
