"""What a write makes of an object."""
