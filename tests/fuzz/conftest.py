"""How many examples: HYPOTHESIS_PROFILE=nightly for 2,000 of each test, otherwise 200."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fast",
    max_examples=200,
    deadline=5000,  # milliseconds: a hang is a failure
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "nightly", settings.get_profile("fast"), max_examples=2_000, deadline=30_000, derandomize=False
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
