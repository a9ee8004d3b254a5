"""One script for each runtime, run by the Python of its own environment."""
