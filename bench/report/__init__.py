"""Records -> tables and figures, by records alone; imports no torch."""
