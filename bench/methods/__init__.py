"""The subject: one initialisation scheme a file, each a pure function of one layer."""
