"""The scheduler: filters and scores as pure functions, and the loop that binds pods."""
