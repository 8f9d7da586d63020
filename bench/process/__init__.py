"""The process that a run lives in: random streams, ranks, signals, seconds and memory, provenance, secrets."""
