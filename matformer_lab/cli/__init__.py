"""The command line."""

from matformer_lab.cli.cli import main

__all__ = ["main"]
