"""A sweep folder's files."""
