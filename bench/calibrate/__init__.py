"""Statistics of the pretrained model at its target layers, for the methods that start from data."""

from bench.calibrate.cached import key, shared
from bench.calibrate.result import Calibration, Cost, Wanted
from bench.calibrate.stage import calibrate

__all__ = ["Calibration", "Cost", "Wanted", "calibrate", "key", "shared"]
