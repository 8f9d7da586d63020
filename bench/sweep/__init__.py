"""Hydra's side: a command line -> cells, composed and validated -> launched processes."""
