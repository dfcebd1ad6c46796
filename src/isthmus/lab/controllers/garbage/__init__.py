"""Garbage collection: dependents go when their owners are gone, in the way the deletion of the owner asked for."""
