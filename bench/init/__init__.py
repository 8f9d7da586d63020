"""Method x model -> adapters in place, checked; calibration and its store."""
