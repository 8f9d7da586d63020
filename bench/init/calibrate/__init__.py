"""Statistics of the pretrained model at its target layers, for the methods that start from data."""

from bench.init.calibrate.cached import key, shared
from bench.init.calibrate.result import Calibration, CalibrationRequest
from bench.init.calibrate.stage import calibrate

__all__ = ["Calibration", "CalibrationRequest", "calibrate", "key", "shared"]
