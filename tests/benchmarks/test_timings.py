"""Timings of what a user waits for; run by `make bench`. They assert nothing."""

import subprocess
import sys

import pytest
import torch


@pytest.mark.benchmark(group="start")
def test_help(benchmark):
    benchmark.pedantic(
        lambda: subprocess.run([sys.executable, "-m", "bench.run", "--help"], capture_output=True, check=True), rounds=5
    )


@pytest.mark.benchmark(group="factors")
@pytest.mark.parametrize("name", ["hu", "reversed", "lora_ga", "lora_xs", "lora_sb"])
def test_factors_of_a_768_by_2048_layer(benchmark, compose_run, name):
    from bench.methods.base import Layer, LearningRates

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(768, 2048, generator=generator)
    gradient = torch.randn(768, 2048, generator=generator)
    layer = Layer("layer", weight, 8, 1.0, gradient, None, LearningRates(1e-3, 1e-4, 1e-4))
    method = compose_run(f"method={name}").method
    benchmark.pedantic(method.factors, (layer, generator), rounds=3)


@pytest.mark.benchmark(group="measures: share of a run")
@pytest.mark.parametrize("measure", ["default", "none"])
def test_a_demo_run_with_and_without_measures(benchmark, run_cell, measure):
    overrides = ["method=hu", "train=demo", f"measure={measure}", "score.limit=400"]
    benchmark.pedantic(lambda: run_cell(*overrides), rounds=3)
