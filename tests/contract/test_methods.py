"""What every method promises, for every file in conf/method and every option that changes its factors."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.methods.base import FACTORS, LearningRates, Rank, scaling_value
from bench.train.alignment import induced_gradient
from matrices import both_orientations, covariance, layer_of, moved_by_one_step, random

ROOT = Path(__file__).parents[2]
REFERENCES = ("full_ft", "none")
ADAPTERS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml") if path.stem not in REFERENCES)
OPTIONS = {
    "astra": ["mode=kpm", "mode=middle"],
    "asymmetry_a": ["frozen=kaiming", "frozen=singular_vectors"],
    "asymmetry_b": ["frozen=kaiming", "frozen=singular_vectors"],
    "corda": ["mode=kpm"],
    "eva": ["rho=1.0"],
    "gora": ["sign=released"],
    "hu": ["distribution=gaussian"],
    "lora_ga": ["direction=A2rBr", "direction=ArBr", "direction=random", "scale=unit", "scale=gd", "scale=weight_svd"],
    "lora_null": ["start=zero"],
    "lora_sb": ["variant=official", "eta_mode=lr", "eta_mode=official"],
    "lora_xs": ["basis=random"],
    "psoft": ["halves=pissa_init"],
    "stella": ["basis=svd_major", "basis=svd_minor"],
}
CHOICES = [(name,) for name in ADAPTERS] + [(name, option) for name in OPTIONS for option in OPTIONS[name]]
each_choice = pytest.mark.parametrize("choice", CHOICES, ids=",".join)


@pytest.fixture
def build(compose_method):
    """A choice -> the method."""
    return lambda choice: compose_method(choice[0], *(f"method.{option}" for option in choice[1:]))


def seen_layer(method, out, into, r=4):
    statistics = {
        "gradient": random(out, into, seed=2),
        "input_covariance": covariance(into),
        "label_covariance": covariance(into, seed=8),
        "token_covariance": covariance(into, seed=9),
        "output_covariance": covariance(out),
        "output_fisher": random(out, seed=10).square(),
        "block_dimensions": torch.tensor([3.2, 5.7]),
    }
    given = {name: value for name, value in statistics.items() if name in method.requires}
    return layer_of(random(out, into, seed=1), r, learning_rates=LearningRates(0.3, 0.02, 0.005), **given)


@both_orientations
@each_choice
def test_factors_have_pefts_shapes(build, choice, out, into):
    method = build(choice)
    factors = method.factors(seen_layer(method, out, into), torch.Generator().manual_seed(0))
    assert factors.lora_A.shape == (4, into)
    assert factors.lora_B.shape == (out, 4)
    for part, shape in {"lora_R": (4, 4), "lora_E": (4,), "lora_o": (out,)}.items():
        assert (part in method.trains) == (getattr(factors, part) is not None)
        assert part not in method.trains or getattr(factors, part).shape == shape


@each_choice
def test_factors_follow_the_given_generator_and_no_other_and_change_nothing_they_see(build, choice):
    method = build(choice)
    seen, before = seen_layer(method, 24, 40), torch.get_rng_state()
    weight = seen.weight.clone()
    one, two = (method.factors(seen, torch.Generator().manual_seed(5)) for _ in range(2))
    for part in FACTORS:
        first, second = getattr(one, part), getattr(two, part)
        assert first is second is None or torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(seen.weight, weight)


@both_orientations
@each_choice
def test_the_induced_gradient_is_what_autograd_moves_w_by(build, choice, out, into):
    method, G = build(choice), random(out, into, seed=9)
    drawn = method.factors(seen_layer(method, out, into), torch.Generator().manual_seed(0))
    parts = (getattr(drawn, part) for part in FACTORS)
    factors = type(drawn)(*(None if part is None else part.double() for part in parts))
    expected = moved_by_one_step(factors, G, 0.7, method.trains)
    assert expected.norm() > 0
    assert (induced_gradient(G, factors, 0.7, method.trains) - expected).norm() < 1e-5 * expected.norm()


@each_choice
def test_only_a_start_that_moves_w_does_not_promise_to_keep_the_function(build, choice):
    method = build(choice)
    drawn = method.factors(seen_layer(method, 24, 40), torch.Generator().manual_seed(0))
    product = drawn.to(torch.device("cpu")).product()
    assert method.keeps_function or product.norm() > 0
    assert product.isfinite().all()


@pytest.mark.parametrize("name", ["lora_ga", "lora_sb"])
def test_a_start_that_is_not_random_leaves_the_generator_as_it_was(build, name):
    method, generator = build((name,)), torch.Generator().manual_seed(5)
    method.factors(seen_layer(method, 24, 40), generator)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())


@pytest.mark.parametrize("name", ADAPTERS)
def test_its_module_opens_with_its_paper(build, name):
    opening = sys.modules[type(build((name,))).__module__].__doc__.partition("\n")[0]
    assert "arXiv:" in opening or "https://" in opening or "PEFT 0.21" in opening


PAPERS = dict.fromkeys(("gora", "lora_da", "lora_ga", "lora_one"), "alpha_over_sqrt_r")
PAPERS |= dict.fromkeys(("lora_sb", "lora_xs", "corda", "milora", "middle", "pissa", "pissa_niter"), "one")
PAPERS |= dict.fromkeys(("giva", "lora_null", "lora_null_v2", "sorsa"), "one")
TRAINED = {"asymmetry_a": {"lora_A"}, "asymmetry_b": {"lora_B"}, "lora_null_v2": {"lora_B"}, "mica": {"lora_A"}}
TRAINED |= {"lora_sb": {"lora_R"}, "lora_xs": {"lora_R"}, "psoft": {"lora_R"}}
TRAINED |= {name: {"lora_A", "lora_B", "lora_R"} for name in ("moslora", "nlora", "stella")}
TRAINED |= {"giva": {"lora_E", "lora_o"}, "sorsa": {"lora_A", "lora_B", "lora_E"}}
# Start from another function than the pretrained one.
MOVING = {"lora_sb", "lora_xs", "lora_one", "gora", "k_step", "lora_da", "nlora", "stella"}


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_scales_trains_and_starts_as_its_paper_does(build, name):
    method = build((name,))
    assert method.keeps_function == (name not in MOVING)
    assert method.scaling == PAPERS.get(name, "alpha_over_r")
    assert method.trains == TRAINED.get(name, {"lora_A", "lora_B"})


RULES = {"alpha_over_r": 3.0, "alpha_over_sqrt_r": 24 / 8**0.5, "one": 1.0}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ADAPTERS)
def test_every_method_takes_every_scaling_rule(compose_method, name, rule):
    method = replace(compose_method(name), scaling=rule)
    assert scaling_value(method.scaling, Rank("r8", 8, 24)) == pytest.approx(RULES[rule])


GRADIENT = ("giva", "gora", "k_step", "lora_da", "lora_ga", "lora_ga_peft", "lora_one", "lora_sb")
NEEDED = dict.fromkeys(GRADIENT, "gradient")
NEEDED |= dict.fromkeys(("corda", "lora_null", "lora_null_v2"), "input_covariance")
NEEDED |= {"eva": "label_covariance", "astra": "output_covariance"}


@pytest.mark.parametrize(("name", "statistic"), NEEDED.items())
def test_a_missing_statistic_is_answered_with_layer_and_remedy(build, name, statistic):
    with pytest.raises(ValueError, match=rf"layers\.3\.q_proj has no {statistic}: name it in the method's"):
        build((name,)).factors(layer_of(random(24, 40)), torch.Generator())
