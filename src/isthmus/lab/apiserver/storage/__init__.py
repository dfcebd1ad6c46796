"""What is kept, on disk and in memory."""
