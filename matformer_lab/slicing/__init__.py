"""Slices as written and resolved, and the plan of the child each one means."""
