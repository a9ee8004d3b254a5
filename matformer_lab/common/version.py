"""The version: defined only here, and read by the build too."""

__version__ = "0.1.0"
