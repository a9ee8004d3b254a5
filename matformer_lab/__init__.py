"""Slice, score and plot the models nested inside Gemma 3n E4B."""

__version__ = "0.1.0"
