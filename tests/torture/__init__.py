"""Kills, failing disks, power cuts and mutated files, for as long as one likes."""
