"""Before a study starts: its cells, what is refused, hours and bytes."""
