"""LoRA-FA and the Riemannian preconditioner, against their invariances and PEFT's optimisers in float64."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer, create_riemannian_optimizer
from torch import nn

from bench.methods.base import Factors
from bench.train.alignment import attainable_gradient, cosine
from matrices import both_orientations, random
from systems_built import S, built_system, factors_of, moved, pair_of

BOTH, ONLY_B = frozenset({"lora_A", "lora_B"}), frozenset({"lora_B"})


@both_orientations
def test_lora_fa_moves_w_along_g_projected_on_the_rows_of_a(out, into):
    A, B, G = factors_of(out, into)
    found = built_system("lora_fa").gradients(pair_of(A, B, G))
    assert found.keys() == {"lora_B"}
    assert (S * found["lora_B"] @ A - G @ torch.linalg.pinv(A) @ A).norm() < 1e-10 * G.norm()
    induced = built_system("lora_fa").induced(G, Factors(A, B), S, ONLY_B)
    torch.testing.assert_close(induced, attainable_gradient(G, Factors(A, B), ONLY_B), rtol=0, atol=1e-10)


def test_over_orthonormal_rows_and_with_s_one_lora_fa_is_no_map():
    _, B, G = factors_of(24, 40)
    A = torch.linalg.qr(random(40, 4)).Q.T
    pair = pair_of(A, B, G, s=1.0)
    torch.testing.assert_close(built_system("lora_fa").gradients(pair)["lora_B"], pair.gradients["lora_B"])


@both_orientations
def test_without_reg_the_riemannian_step_ignores_how_the_factors_share_their_product(out, into):
    A, B, G = factors_of(out, into)
    M = random(4, 4, seed=5)
    system = built_system("riemannian", reg=0)

    def step(system, A, B):
        return moved(system.gradients(pair_of(A, B, G)), A, B)

    one, other = step(system, A, B), step(system, torch.linalg.inv(M) @ A, B @ M)
    assert (one - other).norm() < 1e-9 * one.norm()
    ridged = built_system("riemannian")
    assert (step(ridged, A, B) - step(ridged, torch.linalg.inv(M) @ A, B @ M)).norm() > 1e-4 * one.norm()


@both_orientations
def test_without_reg_the_riemannian_step_counts_twice_what_both_factors_reach(out, into):
    A, B, G = factors_of(out, into)
    rows, columns = torch.linalg.pinv(A) @ A, B @ torch.linalg.pinv(B)
    induced = built_system("riemannian", reg=0).induced(G, Factors(A, B), S, BOTH)
    torch.testing.assert_close(induced, S**2 * (G @ rows + columns @ G), rtol=0, atol=1e-10)
    best = attainable_gradient(G, Factors(A, B), BOTH)
    assert cosine(induced, G) < cosine(best, G)


def peft_pair(out, into, A, B):
    """PEFT's adapter of rank 4 with s = 0.7 around one layer, in float64."""
    model = nn.Sequential(nn.Linear(into, out, bias=False)).double()
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=2.8, target_modules=["0"]))
    layer = wrapped.base_model.model[0]
    layer.lora_A.default.weight.data, layer.lora_B.default.weight.data = A.clone(), B.clone()
    return wrapped, layer.lora_A.default.weight, layer.lora_B.default.weight


@both_orientations
def test_pefts_lora_fa_gives_adam_the_same_gradient_in_float64(out, into):
    A, B, G = factors_of(out, into)
    model, _, theirs = peft_pair(out, into, A, B)
    optimizer = create_lorafa_optimizer(model, r=4, lora_alpha=2.8, lr=1e-3)
    pair = pair_of(A, B, G)
    theirs.grad = pair.gradients["lora_B"].clone()
    optimizer.step()
    (mean,) = (moments["exp_avg_B"] for moments in optimizer.state.values() if "exp_avg_B" in moments)
    expected = built_system("lora_fa").gradients(pair)["lora_B"]
    assert (mean / (1 - 0.9) - expected).norm() < 1e-6 * expected.norm()  # its ridge is 1e-8


@both_orientations
@pytest.mark.parametrize("reg", [0.0, 1e-2])
def test_pefts_riemannian_optimiser_makes_the_same_step_in_float64(out, into, reg):
    A, B, G = factors_of(out, into)
    model, of_A, of_B = peft_pair(out, into, A, B)
    optimizer = create_riemannian_optimizer(model, torch.optim.SGD, lr=0.1, reg=reg)
    pair = pair_of(A, B, G)
    of_A.grad, of_B.grad = pair.gradients["lora_A"].clone(), pair.gradients["lora_B"].clone()
    optimizer.step()
    found = built_system("riemannian", reg=reg).gradients(pair)
    torch.testing.assert_close(of_A.detach(), A - 0.1 * found["lora_A"], rtol=0, atol=1e-10)
    torch.testing.assert_close(of_B.detach(), B - 0.1 * found["lora_B"], rtol=0, atol=1e-10)
