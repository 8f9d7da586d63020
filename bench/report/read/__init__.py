"""Records and the rows beside them -> studies, cells and curves."""
