"""Paired intervals and Pareto sets: pure functions on arrays."""
