"""The desired nftables state: sets, chains, text, deltas, and an interpreter of the same. Pure."""
