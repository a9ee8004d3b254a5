"""Benchmarks, each a script of its own: `python benchmarks/extract.py`."""
