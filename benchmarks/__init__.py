"""Benchmarks, each run as a script: `python benchmarks/extract.py`."""
