"""What clients send, read with suspicion."""
