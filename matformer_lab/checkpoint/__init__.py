"""A slice on disk."""
