import random

import numpy as np
import pytest
import torch

from bench import rng


def test_a_stream_depends_on_seed_and_stage_only():
    def drawn(seed, stage):
        return torch.randn(4, generator=rng.stream(seed, stage)).tolist()

    assert drawn(0, "init") == drawn(0, "init")
    assert drawn(0, "init") != drawn(0, "data")
    assert drawn(0, "init") != drawn(1, "init")


def test_seeds_are_the_same_on_every_machine():
    assert rng.derive(0, "init") == 1519069808562059438


def test_global_streams_come_back_as_they_were_also_after_an_error():
    rng.seed_global(3)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    rng.seed_global(3)
    with pytest.raises(KeyError), rng.preserved():  # noqa: PT012  the context is what is tested
        random.random(), np.random.rand(), torch.rand(7)
        raise KeyError
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
