"""Conditions of policy objects of the own cluster: whether they are valid, and whether every node enforces them."""
