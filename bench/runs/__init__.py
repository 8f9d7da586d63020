"""One run on disk: its lease, attempt, checkpoints, folder and record, and the mirror on Weights & Biases."""
