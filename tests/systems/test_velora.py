from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, VeloraConfig, get_peft_model
from torch import nn

from bench.methods.base import PLAIN, Factors, Layer
from bench.systems.velora import direction, projected
from matrices import both_orientations, random
from systems_built import S, built_system, factors_of, host, moved

TRAINS = frozenset({"lora_A", "lora_B"})


def inputs(into):
    return 0.5 + random(3, 10, into, seed=5)


def gradients(kernel, x, W, A, B):
    leaves = [tensor.clone().requires_grad_() for tensor in (x, A, B)]
    y = kernel(leaves[0], W, leaves[1], leaves[2], S)
    (y * random(*y.shape, seed=9)).sum().backward()
    return y.detach(), *(leaf.grad for leaf in leaves)


def plain(x, W, A, B, s):
    return x @ W.T + s * x @ A.T @ B.T


@both_orientations
@pytest.mark.parametrize("num_groups", [3, 8, 16])
def test_only_the_gradient_of_a_is_projected_and_scaled(out, into, num_groups):
    A, B, W = factors_of(out, into)
    x = inputs(into)
    y, dx, dA, dB = gradients(built_system("velora", num_groups=num_groups).kernel, x, W, A, B)
    y_exact, dx_exact, dA_exact, dB_exact = gradients(plain, x, W, A, B)
    torch.testing.assert_close(y, y_exact)
    torch.testing.assert_close(dx, dx_exact)
    torch.testing.assert_close(dB, dB_exact)
    v = direction(x.reshape(-1, into), num_groups)
    torch.testing.assert_close(dA, 0.1 * projected(dA_exact, v, num_groups), rtol=1e-10, atol=1e-10)
    assert v.norm() == pytest.approx(1)
    if into % num_groups == 0:
        twice = projected(projected(dA_exact, v, num_groups), v, num_groups)
        torch.testing.assert_close(twice, projected(dA_exact, v, num_groups))


@both_orientations
def test_with_a_group_an_entry_and_no_scale_nothing_is_lost(out, into):
    A, B, W = factors_of(out, into)
    found = gradients(built_system("velora", num_groups=into, scale=1.0).kernel, inputs(into), W, A, B)
    for ours, exact in zip(found, gradients(plain, inputs(into), W, A, B), strict=True):
        torch.testing.assert_close(ours, exact)


@both_orientations
@pytest.mark.parametrize("num_groups", [3, 8])
def test_pefts_velora_has_the_same_gradients(out, into, num_groups):
    A, B, W = factors_of(out, into)
    model = nn.Sequential(nn.Linear(into, out, bias=False)).double()
    velora = VeloraConfig(num_groups=num_groups, scale=0.1)
    config = LoraConfig(r=4, lora_alpha=2.8, target_modules=["0"], velora_config=velora)
    wrapped = get_peft_model(model, config).double().train()
    layer = wrapped.base_model.model[0]
    layer.base_layer.weight.data = W.clone()
    layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = A.clone(), B.clone()
    y = wrapped(inputs(into))
    (y * random(*y.shape, seed=9)).sum().backward()
    found = gradients(built_system("velora", num_groups=num_groups).kernel, inputs(into), W, A, B)
    theirs = [y.detach(), layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad]
    for ours, one in zip((found[0], *found[2:]), theirs, strict=True):
        torch.testing.assert_close(ours, one, rtol=1e-5, atol=1e-5)  # its v is normalised in float32


def test_one_number_a_sub_token_is_kept_in_the_place_of_the_input():
    A, B, W = factors_of(24, 40)

    def kept(kernel):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            kernel(inputs(40), W, A.requires_grad_(), B.requires_grad_(), S)
        return sizes

    tokens = 3 * 10
    assert tokens * 40 in kept(plain)
    compressed = kept(built_system("velora", num_groups=8).kernel)
    assert tokens * 40 not in compressed
    assert tokens * 8 in compressed


@both_orientations
def test_the_induced_gradient_is_what_its_gradients_move_w_by(out, into):
    A, B, W = factors_of(out, into)
    x, system = inputs(into), built_system("velora", num_groups=8)
    y, _, dA, dB = gradients(system.kernel, x, W, A, B)
    G = random(*y.shape, seed=9).reshape(-1, out).T @ x.reshape(-1, into)
    mean = x.reshape(-1, into).mean(dim=0)
    found = system.induced(G, Factors(A, B), S, TRAINS, mean)
    torch.testing.assert_close(found, moved({"lora_A": dA, "lora_B": dB}, A, B), rtol=1e-9, atol=1e-9)
    only_a = system.induced(G, Factors(A, B), S, frozenset({"lora_A"}), mean)
    torch.testing.assert_close(only_a, S * B @ dA, rtol=1e-9, atol=1e-9)


def test_more_groups_than_inputs_methods_that_do_not_train_a_and_loraplus_are_refused():
    layer = Layer("layer", torch.empty(40, 24, device="meta"), 4, 1.0)
    with pytest.raises(ValueError, match=r"num_groups=32 is more than the 24 inputs of layer; take fewer"):
        built_system("velora").check_layer(layer)
    with pytest.raises(
        ValueError, match=r"gradient of lora_A takes, and method=asymmetry_b trains lora_B; take another"
    ):
        built_system("velora").check(host("asymmetry_b"))
    with pytest.raises(ValueError, match=r"loraplus_lr_ratio=4: system\.scale already sets .*; take adapter\.loraplus"):
        built_system("velora").check(host(options=replace(PLAIN, loraplus_lr_ratio=4.0)))
