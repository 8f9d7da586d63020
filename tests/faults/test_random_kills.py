"""SIGKILL at random moments, several in one run: it ends with the record of an undisturbed run all the same."""

import random
import time

import pytest
from conftest import SHORT, composed_run
from faults.harness import assert_same, ended, folder_of, leftovers, started, tried

METHODS = ("hu", "lora_ga", "lora_sb", "full_ft", "lora_xs")
KILLS = 11  # a method


def cell(root, method):
    steps = ("train.max_steps=12", "checkpoint.steps=1", "checkpoint.keep=2")
    return composed_run(*SHORT, *steps, f"method={method}", f"results_dir={root}")


@pytest.mark.faults
@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path, method):
    whole, number = cell(tmp_path / "whole", method), 0
    begun = time.monotonic()
    assert ended(whole) == 0
    longest = 1.1 * (time.monotonic() - begun)
    moments = random.Random(method)
    for attempt in range(10 * KILLS):
        broken = cell(tmp_path / f"broken{number}", method)
        process = started(broken)
        process.join(moments.uniform(0.0, longest))
        if process.is_alive():
            process.kill()
            tried["killed at a random moment"] += 1
            process.join()
        if folder_of(broken).done:
            assert_same(folder_of(whole).path, folder_of(broken).path)
            assert ended(broken) == 0
            assert leftovers(broken) == []
            number += 1
            if attempt >= KILLS:
                break
    assert attempt >= KILLS
    assert number >= 1
