import random

import numpy as np
import pytest
import torch

from bench.process import rng


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


def test_streams_are_apart_from_each_other_and_from_the_global_one():
    before = torch.get_rng_state()
    one, other = rng.stream(0, "init"), rng.stream(0, "data")
    untouched = other.get_state()
    torch.randn(5, generator=one)
    assert torch.equal(other.get_state(), untouched)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_fit_a_generator_and_differ_between_neighbours():
    seeds = [rng.derive(seed, stage) for seed in range(20) for stage in ("init", "data", "probe")]
    assert len(set(seeds)) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert rng.derive(1, "1/init") != rng.derive(11, "init")


def test_global_streams_come_back_also_when_reseeded_inside():
    def states():
        _, keys, position, *_ = np.random.get_state()
        return random.getstate(), keys.tolist(), position, torch.get_rng_state().tolist()

    before = states()
    with rng.preserved():
        rng.seed_global(7)
    assert states() == before
