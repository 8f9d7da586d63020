"""Agreement with the authors' published code, whose outputs on seeded matrices and a tiny model lie in authors/*.npz.

Each file names repository, commit and call. A departure that is known is asserted with its size.
"""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.init.calibrate import CalibrationRequest, calibrate
from bench.methods.base import Factors, Layer, LearningRates
from bench.methods.k_step import adalomo_step
from bench.methods.lora_one import LoRAOne
from bench.model.layers import target_layers
from bench.systems.base import Clock, Pair
from bench.systems.sora import official_threshold
from built_methods import built
from matrices import with_signs_of
from systems_built import built_system

R = 4
SHAPES = ("wide", "tall")
each_shape = pytest.mark.parametrize("shape", SHAPES)
AUTHORS = Path(__file__).parent / "authors"
GRADIENT = CalibrationRequest(frozenset({"gradient"}))
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@functools.cache
def stored(name):
    arrays = np.load(AUTHORS / f"{name}.npz")
    return {k: str(arrays[k]) if arrays[k].dtype.kind == "U" else torch.tensor(arrays[k]) for k in arrays.files}


def part(name, *path):
    return stored(name)["/".join(path)]


def ours(method, name, key, scaling, generator=None):
    found = stored(name)
    rates = LearningRates(peak=0.01, first=0.0, calibration=0.0)
    gradient = found.get(f"{key}/G")
    W = found[f"{key}/W"]
    return method.factors(Layer("layer", W, R, scaling, gradient, learning_rates=rates), generator)


def deviation(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def of_factors(A, B, factors):
    """Of each factor, singular vectors taken with the same sign."""
    return (
        deviation(with_signs_of(factors.lora_A, A), factors.lora_A),
        deviation(with_signs_of(factors.lora_B.T, B.T), factors.lora_B.T),
    )


def overlap(X, Y):
    """‖X Yᵀ‖²/r of orthonormal rows: 1 where they span the same space."""
    X, Y = (torch.linalg.qr(rows.T)[0] for rows in (X, Y))
    return ((X.T @ Y).square().sum() / X.shape[1]).item()


@pytest.mark.parametrize("path", sorted(AUTHORS.glob("*.npz")), ids=lambda path: path.stem)
def test_every_file_says_what_made_it(path):
    found = stored(path.stem)
    assert found["repository"].startswith("https://github.com/")
    assert len(found["commit"]) == 40
    assert ".py" in found["call"]
    assert "torch 2" in found["versions"]


@pytest.mark.parametrize("scale", ["stable", "unit", "gd", "weight_svd"])
@pytest.mark.parametrize("direction", ["ArB2r", "A2rBr", "ArBr"])
@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_lora_ga_departs_by_its_exact_svd_and_only_where_the_spectrum_is_flat(shape, spectrum, direction, scale):
    key, theirs = f"{shape}/{spectrum}", {"weight_svd": "weightS"}.get(scale, scale)
    factors = ours(built("lora_ga", direction=direction, scale=scale), "lora_ga", key, 4.0)
    A, B = (part("lora_ga", key, direction, theirs, name) for name in "AB")
    if spectrum == "decaying":
        assert max(of_factors(A, B, factors)) < 1e-5
        return
    assert 5e-3 < max(of_factors(A, B, factors)) < 0.1  # svd_lowrank(q=4r, niter=4)
    assert overlap(A, factors.lora_A) > 0.995
    lengths = A.norm(dim=1) / factors.lora_A.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(R), rtol=0, atol=1e-4)


@each_shape
def test_lora_gas_residual_is_w_minus_s_b_a(shape):
    key = f"{shape}/decaying"
    A, B, residual = (part("lora_ga", key, "ArB2r", "stable", name) for name in ("A", "B", "residual"))
    torch.testing.assert_close(residual, part("lora_ga", key, "W") - 4.0 * B @ A, rtol=0, atol=1e-5)


@each_shape
def test_lora_gas_random_direction_splits_the_same_2r_vectors(shape):
    key = f"{shape}/decaying"
    of_A, of_B = (part("lora_ga", key, "random/stable", f"indexes_{name}").tolist() for name in "AB")
    assert sorted(of_A + of_B) == list(range(2 * R))
    A, B = (part("lora_ga", key, "random/stable", name) for name in "AB")
    everything = (
        ours(built("lora_ga"), "lora_ga", key, 4.0),
        ours(built("lora_ga", direction="A2rBr"), "lora_ga", key, 4.0),
    )
    vectors = Factors(
        torch.cat([factors.lora_A for factors in everything])[of_A],
        torch.cat([factors.lora_B for factors in reversed(everything)], dim=1)[:, of_B],
    )
    assert max(of_factors(A, B, vectors)) < 1e-5


def tiny_model(name):
    config = LlamaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    weights = {key.removeprefix("model/"): value for key, value in stored(name).items() if key.startswith("model/")}
    model.load_state_dict(weights)
    return model


def calibrated(name):
    model, ids, labels = tiny_model(name), part(name, "data/ids"), part(name, "data/labels")
    batches = [
        {"input_ids": ids[i : i + 2], "labels": labels[i : i + 2], "attention_mask": torch.ones_like(ids[:2])}
        for i in (0, 2, 4)
    ]
    return calibrate(model, target_layers(model, PROJECTIONS), batches, GRADIENT).gradient


def test_lora_gas_gradient_estimate():
    found = calibrated("lora_ga")
    assert len(found) == 14
    for name, gradient in found.items():
        assert deviation(part("lora_ga", "gradient", f"{name}.weight"), gradient) < 1e-5


def test_lora_sbs_first_step():
    for name, gradient in calibrated("lora_sb").items():
        step = part("lora_sb", "processed", f"{name}.weight")
        # An entry so small that summing in another order may turn its sign does not count.
        clear = gradient.abs() > 1e-5 * gradient.abs().max()
        assert clear.float().mean() > 0.99
        assert torch.equal(step[clear], -0.01 * gradient.sign()[clear])


@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_the_official_variant_of_lora_sb_is_the_authors(shape, spectrum):
    key = f"{shape}/{spectrum}"
    factors = ours(built("lora_sb", variant="official", eta_mode="lr"), "lora_sb", key, 1.0)
    A, B, middle = (part("lora_sb", key, name) for name in "ABR")
    # Equal to the last bit on the machine that ran both; another one may round some entries to the next bfloat16.
    for found, own in ((A, factors.lora_A), (B, factors.lora_B), (middle, factors.lora_R)):
        assert deviation(found, own) < 5e-3


@each_shape
def test_lora_sb_departs_by_float32_where_the_spectrum_decays_and_by_its_exact_svd_where_it_is_flat(shape):
    def product(key):
        return part("lora_sb", key, "B") @ part("lora_sb", key, "R") @ part("lora_sb", key, "A")

    decaying, flat = f"{shape}/decaying", f"{shape}/noise"
    exact = ours(built("lora_sb", eta_mode="lr"), "lora_sb", decaying, 1.0)
    assert 1e-3 < deviation(product(decaying), exact.product()) < 1e-2
    exact = ours(built("lora_sb", eta_mode="lr"), "lora_sb", flat, 1.0)
    assert 0.4 < deviation(product(flat), exact.product()) < 0.7  # svd_lowrank(q=r, niter=10) misses directions
    step = -0.01 * part("lora_sb", flat, "G").sign()
    missed = [(step - approximation).norm().item() for approximation in (exact.product(), product(flat))]
    assert missed[0] < missed[1]  # the exact one is the closer


@each_shape
def test_lora_xs(shape):
    for spectrum, bound in (("decaying", 1e-5), ("noise", 2e-3)):
        key = f"{shape}/{spectrum}"
        factors = ours(built("lora_xs"), "lora_xs", key, 1.0, torch.Generator())
        A, B = (part("lora_xs", key, name) for name in "AB")
        assert deviation(B @ A, factors.lora_B @ factors.lora_A) < bound
        assert max(of_factors(A, B, factors)) < bound
    assert part("lora_xs", "latent_std").item() == built("lora_xs").r_std
    assert 0.5e-5 < part("lora_xs", key, "R").std() < 2e-5


@each_shape
def test_lora_xs_random_basis_has_the_authors_bounds(shape):
    key = f"{shape}/noise"
    out = len(part("lora_xs", key, "W"))
    factors = ours(built("lora_xs", basis="random"), "lora_xs", key, 1.0, torch.Generator().manual_seed(0))
    for name, own, bound in (("A", factors.lora_A, R**-0.5), ("B", factors.lora_B, out**-0.5)):
        for drawn in (own, part("lora_xs", key, "random", name)):
            assert 0.95 * bound < drawn.abs().max() <= bound
            assert drawn.std().item() == pytest.approx(bound / 3**0.5, rel=0.12)


@each_shape
def test_asymmetrys_random_factors_are_orthonormal_of_length_one_as_ours(shape):
    key, identity = f"{shape}/noise", torch.eye(R)
    generator = torch.Generator().manual_seed(0)
    A = ours(built("asymmetry_b"), "asymmetry", key, 2.0, generator).lora_A
    B = ours(built("asymmetry_a"), "asymmetry", key, 2.0, generator).lora_B
    for drawn in (A, B.T, part("asymmetry", key, "A_rand"), part("asymmetry", key, "B_rand").T):
        torch.testing.assert_close(drawn @ drawn.T, identity, rtol=0, atol=1e-5)


@each_shape
def test_asymmetrys_kaiming_factors_have_our_bounds(shape):
    key = f"{shape}/noise"
    into = part("asymmetry", key, "W").shape[1]
    for name, bound in (("A_he", into**-0.5), ("B_he", R**-0.5)):
        assert 0.95 * bound < part("asymmetry", key, name).abs().max() <= bound


@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_asymmetrys_left_singular_vectors_are_ours_and_its_right_ones_are_not_those_of_w(shape, spectrum):
    key = f"{shape}/{spectrum}"
    W = part("asymmetry", key, "W")
    B = ours(built("asymmetry_a", frozen="singular_vectors"), "asymmetry", key, 2.0).lora_B
    A = ours(built("asymmetry_b", frozen="singular_vectors"), "asymmetry", key, 2.0).lora_A
    assert overlap(part("asymmetry", key, "B_U").T, B.T) == pytest.approx(1.0, abs=1e-5)
    theirs, Vh = part("asymmetry", key, "A_V"), torch.linalg.svd(W)[2]
    assert overlap(theirs, A) < 0.2  # the departure: chance level
    assert overlap(theirs, Vh[:, :R].T) == pytest.approx(1.0, abs=1e-5)  # columns of Vh


def test_asymmetrys_strategy_names_put_b_first():
    documented, needed = (json.loads(part("asymmetry", "strategy", s)) for s in ("A_rand_hB_zero", "hB_zero_A_rand"))
    assert (documented["update_A"], documented["update_B"], documented["A_init"]) == (True, False, "zero")
    assert (needed["update_A"], needed["update_B"], needed["A_init"], needed["B_init"]) == (False, True, "rand", "zero")


@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_lora_one(shape, spectrum):
    key = f"{shape}/{spectrum}"
    factors = ours(built("lora_one"), "lora_one", key, 4.0)
    A, B = (part("lora_one", key, name) for name in "AB")
    assert max(of_factors(A, B, factors)) < 2e-5
    assert deviation(B @ A, factors.product()) < 1e-5
    assert part("lora_one", key, "base_change").item() == 0.0
    assert not LoRAOne.keeps_function


@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_milora(shape, spectrum):
    key = f"{shape}/{spectrum}"
    factors = ours(built("milora"), "milora", key, 1.0)
    A, B, residual = (part("milora", key, name) for name in ("A", "B", "residual"))
    assert max(of_factors(A, B, factors)) < 1e-5
    assert deviation(residual, part("milora", key, "W") - factors.product()) < 1e-5


@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_lora_null_takes_over_and_leaves_what_the_authors_does(shape, spectrum):
    key = f"{shape}/{spectrum}"
    W, C = part("lora_null", key, "W"), part("lora_null", key, "C")
    layer = Layer("layer", W, R, 1.0, input_covariance=C)
    factors = built("lora_null").factors(layer, torch.Generator())
    A, B, residual = (part("lora_null", key, "v1", name) for name in ("A", "B", "residual"))
    assert max(of_factors(A, B, factors)) < 2e-5  # eigenvectors in float32 there
    assert deviation(residual, W - factors.product()) < 1e-5
    zero = built("lora_null", start="zero").factors(layer, torch.Generator())
    A, B, residual = (part("lora_null", key, "zero", name) for name in ("A", "B", "residual"))
    assert deviation(A.T @ A, zero.lora_A.T @ zero.lora_A) < 2e-5
    assert not B.any()
    assert torch.equal(residual, W)


@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_the_k_step_update_is_lorafactorys_and_departs_by_its_exact_svd_where_the_step_is_flat(shape, spectrum):
    key = f"{shape}/{spectrum}"
    W, G, step = (part("k_step", key, name) for name in ("W", "G", "step"))
    eta = part("k_step", "eta").item()
    assert deviation(step, adalomo_step(W, G, eta)) < 1e-5  # there a difference of two weights
    factors = ours(built("k_step", eta=eta), "k_step", key, 2.0)
    A, B = (part("k_step", key, name) for name in "AB")
    missed = [(adalomo_step(W, G, eta) - approximation).norm() for approximation in (factors.product(), B @ A)]
    assert missed[0] < missed[1] < 1.1 * missed[0]  # svd_lowrank(q=r, niter=4)
    assert part("k_step", key, "base_change") == 0


@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_gora_is_the_authors_but_for_the_sign(shape, spectrum):
    key, scaling = f"{shape}/{spectrum}", part("gora", "scaling").item()
    A, B, change = (part("gora", key, name) for name in ("A", "B", "change"))
    released = ours(built("gora", sign="released"), "gora", key, scaling, torch.Generator().manual_seed(0))
    assert torch.equal(released.lora_A, A)
    assert deviation(B, released.lora_B) < 1e-5
    assert deviation(change, scaling * released.product()) < 1e-5
    assert (change * part("gora", key, "G")).sum() > 0  # uphill
    descent = ours(built("gora"), "gora", key, scaling, torch.Generator().manual_seed(0))
    assert deviation(-B, descent.lora_B) < 1e-5


def test_goras_ranks_are_the_authors():
    keys = [f"{shape}/{spectrum}" for shape in SHAPES for spectrum in ("decaying", "noise")]
    layers = [Layer(key, part("gora", key, "W"), 8, 1.0, part("gora", key, "G")) for key in keys]
    assert built("gora").ranks(layers) == {key: part("gora", key, "rank").item() for key in keys}


@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_nzlora_is_that_of_lr_matters_of_the_same_draws(shape, spectrum):
    key, generator = f"{shape}/{spectrum}", torch.Generator().manual_seed(3)
    factors = ours(built("nzlora"), "nzlora", key, 2.0, generator)
    A, B, residual = (part("nzlora", key, name) for name in ("A", "B", "residual"))
    assert torch.equal(factors.lora_A, A)
    assert torch.equal(factors.lora_B, B)
    torch.testing.assert_close(residual, part("nzlora", key, "W") - 2.0 * factors.product(), rtol=0, atol=1e-5)


# Of 40 inputs, or of a W that decays below rounding, the smallest directions of the outputs are arbitrary.
DETERMINED = [(shape, spectrum, "ipm") for shape in SHAPES for spectrum in ("decaying", "noise")]
DETERMINED += [("wide", "noise", "kpm"), ("wide", "noise", "middle"), ("tall", "noise", "middle")]


@pytest.mark.parametrize(("shape", "spectrum", "mode"), DETERMINED)
def test_astra_is_the_authors_where_the_outputs_determine_its_directions(shape, spectrum, mode):
    key = f"{shape}/{spectrum}"
    W, C = part("astra", key, "W"), part("astra", key, "C")
    layer = Layer("layer", W, R, part("astra", "scaling").item(), output_covariance=C)
    factors = built("astra", mode=mode).factors(layer, torch.Generator())
    A, B = (part("astra", key, mode, name) for name in "AB")
    order = slice(None) if mode == "kpm" else torch.arange(R - 1, -1, -1)  # theirs ascend
    assert max(of_factors(A[order], B[:, order], factors)) < 2e-5
    if mode == "ipm":
        assert deviation(part("astra", key, "ipm", "residual"), W - layer.scaling * factors.product()) < 1e-5


@each_shape
def test_astras_covariance_is_the_mean_over_samples_of_outputs_with_bias_over_their_largest_entry(shape):
    key = f"{shape}/noise"
    outputs = part("astra", key, "X") @ part("astra", key, "W").T + part("astra", key, "bias")
    scaled = outputs / outputs.amax(dim=(1, 2), keepdim=True).abs()
    assert deviation(part("astra", key, "C"), torch.einsum("stm,stk->mk", scaled, scaled) / len(outputs)) < 1e-5


@pytest.mark.parametrize("beta", [0.03, 0.0])
@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_lora_da_departs_by_exact_eigenvectors(shape, spectrum, beta):
    key = f"{shape}/{spectrum}"
    W, G, Z, y = (part("lora_da", key, name) for name in "WGZy")
    layer = Layer("layer", W, R, 1.0, G, token_covariance=Z, output_fisher=y)
    factors = built("lora_da", variance_beta=beta).factors(layer, torch.Generator())
    A, B = (part("lora_da", key, "ten", str(beta), name) for name in "AB")
    assert 1e-6 < deviation(B @ A, factors.product()) < 1e-3  # ten iterations of LOBPCG in float32
    assert max(of_factors(A, B, factors)) < 2e-3
    assert overlap(A, factors.lora_A) > 0.99999


@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_sorsa(shape, spectrum):
    key = f"{shape}/{spectrum}"
    factors = ours(built("sorsa"), "sorsa", key, part("sorsa", "scaling").item())
    A, B, values, residual = (part("sorsa", key, name) for name in ("A", "B", "S", "residual"))
    assert max(of_factors(A, B, factors)) < 1e-5
    assert deviation(values, factors.lora_E) < 1e-6
    torch.testing.assert_close(residual, part("sorsa", key, "W") - factors.product(), rtol=0, atol=1e-5)


@each_shape
def test_giva_departs_by_its_exact_svd_and_only_where_the_spectrum_is_flat(shape):
    for spectrum in ("decaying", "noise"):
        key = f"{shape}/{spectrum}"
        factors = ours(built("giva"), "giva", key, 1.0)
        A, B = (part("giva", key, name) for name in "AB")
        assert torch.equal(factors.lora_E, part("giva", key, "s"))
        assert torch.equal(factors.lora_o, part("giva", key, "o"))
        if spectrum == "decaying":
            assert max(of_factors(A, B, factors)) < 1e-5
        else:
            assert 5e-3 < max(of_factors(A, B, factors)) < 0.15  # svd_lowrank(q=4r, niter=4)


@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_nlora_and_moslora_are_those_of_nloras_authors(shape, spectrum):
    key = f"{shape}/{spectrum}"
    layer = Layer("layer", part("nlora", key, "W"), R, 2.0)
    for method, name in (("nlora", "nlora"), ("moslora", "slora")):
        factors = built(method).factors(layer, torch.Generator().manual_seed(3))
        for letter in "ABR":
            assert torch.equal(getattr(factors, f"lora_{letter}"), part("nlora", key, name, letter))


@pytest.mark.parametrize("spectrum", ["decaying", "noise"])
@each_shape
def test_stellas_start(shape, spectrum):
    key = f"{shape}/{spectrum}"
    layer = Layer("layer", part("stella", key, "W"), R, 2.0)
    for basis, mode in (("random", "rando"), ("svd_major", "major"), ("svd_minor", "minor")):
        factors = built("stella", basis=basis).factors(layer, torch.Generator().manual_seed(3))
        A, B = (part("stella", key, mode, name) for name in "AB")
        assert max(of_factors(A, B, factors)) < 1e-5
        assert torch.equal(factors.lora_R, part("stella", key, mode, "R"))


# Systems


@each_shape
def test_flora_ends_where_the_authors_optimiser_does_over_the_same_projections(shape):
    W, system, state = part("flora", shape, "W").double(), built_system("flora", r=4, kappa=2), {}
    for step, G in enumerate(part("flora", shape, "G").double(), 1):
        pair = Pair("layer", {"weight": W}, {"weight": G}, 1.0)
        W = W - 1e-2 * system.descent(pair, state, Clock(step, 90, 1e-2, seed=0))["weight"]
    assert deviation(W, part("flora", shape, "after")) < 1e-12


def test_soras_official_threshold_is_what_the_authors_step_does_to_the_gates():
    found = stored("sora")
    assert torch.equal(official_threshold(found["gates"], found["sparse_lambda"].item()), found["after"])
