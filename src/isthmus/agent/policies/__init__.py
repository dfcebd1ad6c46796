"""Policy objects of the own cluster: what is in force, what they refer to, and what is told of their enforcement."""
