import itertools

import pytest
import torch

from bench.methods.base import Rank
from bench.model.adapter import add
from bench.model.layers import target_layers
from bench.model.lora_kernel import KernelLinear
from bench.systems.runlora import Orders, Product, backward_cost, cheapest, forward_cost
from built_methods import built
from matrices import both_orientations, random
from models import random_batch, tiny_bert, tiny_llama
from systems_built import S, built_system, host

ALL = [Orders(*flags) for flags in itertools.product((False, True), repeat=4)]


@both_orientations
@pytest.mark.parametrize("orders", ALL)
def test_every_order_gives_the_loss_and_the_gradients_of_autograd(out, into, orders):
    leaves = [random(*shape, seed=seed) for seed, shape in enumerate([(30, into), (4, into), (out, 4)])]
    W, weights = random(out, into, seed=7), random(30, out, seed=8)
    found = []
    for own in (True, False):
        x, A, B = (leaf.clone().requires_grad_() for leaf in leaves)
        y = Product.apply(x, W, A, B, S, orders) if own else x @ W.T + S * x @ A.T @ B.T
        loss = (y * weights).sum() + y.square().sum()
        found.append([loss.detach(), *torch.autograd.grad(loss, (x, A, B))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-9)


def test_multiplications_are_counted_by_hand():
    assert forward_cost(False, tokens=10, num_in=40, num_out=24, r=4) == 2 * (10 * 40 * 24 + 10 * 40 * 4 + 10 * 4 * 24)
    assert forward_cost(True, tokens=10, num_in=40, num_out=24, r=4) == 2 * (24 * 4 * 40 + 10 * 40 * 24)
    Tio, Tri, Tro, iro = 10 * 40 * 24, 10 * 4 * 40, 10 * 4 * 24, 40 * 4 * 24
    by_hand = {
        (False, False, False): Tro + Tri + Tri + Tro + Tio + Tri,  # dY B once, for A and x
        (True, False, False): Tio + iro + Tri + Tro + Tio + Tro + Tri,
        (False, True, False): Tro + Tri + Tio + iro + Tio + Tri,
        (True, True, True): Tio + iro + iro + Tio + iro,
        (False, False, True): Tro + Tri + Tri + Tro + Tio + iro,
    }
    for flags, expected in by_hand.items():
        assert backward_cost(Orders(False, *flags), 10, 40, 24, 4, needs_x=True) == 2 * expected
    assert backward_cost(Orders(False, False, False, False), 10, 40, 24, 4, needs_x=False) == 2 * 2 * (Tro + Tri)


@both_orientations
def test_the_merged_form_is_taken_from_as_many_tokens_on_as_save_multiplications(out, into):
    # T > in out / (in + out) = 15
    assert [cheapest(tokens, into, out, 4, True).merged for tokens in (14, 15, 16, 500)] == [False, False, True, True]
    assert [cheapest(tokens, into, out, 4, True).of_x for tokens in (14, 15, 16, 500)] == [False, False, False, True]
    assert cheapest(50, into, out, 4, True) == cheapest(50, into, out, 4, True)


@pytest.mark.parametrize("make", [tiny_llama, tiny_bert], ids=["llama", "bert with biases"])
def test_a_model_has_the_same_loss_and_gradients_with_and_without_it(make):
    found = []
    for system in (built_system("runlora"), None):
        model = make() if make is tiny_llama else make(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        layers = target_layers(model, None)
        given = {} if system is None else {"system": system}
        wrapped, adapted = add(model, built("hu"), Rank("r4", 4, 8.0), layers, **given)
        assert all(isinstance(layer.module, KernelLinear) == (system is not None) for layer in adapted)
        for seed, layer in enumerate(adapted):
            for part, parameter in layer.parameters().items():
                parameter.data = 0.1 * random(*parameter.shape, seed=2 * seed + (part == "lora_B")).float()
        batch = random_batch(3, 9)
        if make is tiny_bert:
            batch["labels"] = torch.tensor([0, 1, 1])
        loss = wrapped.train()(**batch).loss
        loss.backward()
        found.append([loss.detach(), *(p.grad for layer in adapted for p in layer.parameters().values())])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"dtype": "bfloat16"}, r"which bfloat16 rounds away; take model\.dtype=float32 and train\.precision=fp32"),
        ({"method": "lora_xs"}, r"method=lora_xs trains lora_R; take another"),
    ],
)
def test_what_it_cannot_compute_is_refused(where, told):
    with pytest.raises(ValueError, match=told):
        built_system("runlora").check(host(**where))
