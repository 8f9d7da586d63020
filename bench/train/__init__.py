"""Training with transformers.Trainer: settings, stage and loop."""

from bench.train.settings import DivergedError, Train, Training
from bench.train.stage import order, train

__all__ = ["DivergedError", "Train", "Training", "order", "train"]
