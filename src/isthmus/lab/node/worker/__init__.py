"""The work on one pod: from its binding to its end."""
