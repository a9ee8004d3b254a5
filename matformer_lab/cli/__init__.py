"""The command line."""

from matformer_lab.cli.main import main

__all__ = ["main"]
