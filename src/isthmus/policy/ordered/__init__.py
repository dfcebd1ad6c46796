"""Policies of tiers in which the first match decides: ClusterNetworkPolicy, and the two that came before it."""
