"""Benchmarks of policy: what compiling, enforcing and following a change costs, at sizes that matter."""
