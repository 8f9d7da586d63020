"""Kept for one release: see `__main__`."""
