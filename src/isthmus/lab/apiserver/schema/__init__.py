"""What is served and what it looks like: kinds, the shapes of their objects, and how clients are told."""
