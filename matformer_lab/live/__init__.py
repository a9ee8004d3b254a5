"""A slice in memory."""
