"""Services as pure functions: which backends are in use, and at which addresses. Knows nothing of nftables."""
