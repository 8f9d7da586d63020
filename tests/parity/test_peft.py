"""Agreement with PEFT on one tiny model, for every scheme that PEFT ships: factors, base weights and logits.

Singular vectors have no sign of their own: factors are compared after PEFT's have been given ours.
"""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PsoftConfig, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.config import CordaConfig, EvaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga

from bench.methods.base import PLAIN, Layer, Rank
from built_methods import built
from matrices import with_signs_of
from starts import start

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
R, ALPHA, S = 4, 8, 2.0


def ours(model, method, given, options=PLAIN):
    """Layer name -> adapted layer, as a run starts."""
    begun = start(model, method, Rank("r4", R, ALPHA), TARGETS, [given], options, (1, 1, 1))
    return begun.model, {layer.name: layer for layer in begun.layers}


def theirs(model, init, **settings):
    config = LoraConfig(r=R, lora_alpha=ALPHA, target_modules=list(TARGETS), init_lora_weights=init, **settings)
    return config, lambda: get_peft_model(model, config)


def peft_layers(wrapped):
    modules = wrapped.base_model.model.named_modules()
    return {name: module for name, module in modules if hasattr(module, "lora_A") and module.lora_A}


def parts(module):
    A, B = module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach()
    return A, B, module.get_base_layer().weight.detach()


def logits(model, given):
    with torch.no_grad():
        return model.eval()(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits


def compare(mine, wrapped, tolerance):
    """Every layer's factors up to sign, and what remains in the base once it has PEFT's signs."""
    found = peft_layers(wrapped)
    assert found.keys() == mine.keys()
    for name, layer in mine.items():
        factors = layer.factors()
        A, B, base = parts(found[name])
        close = {"rtol": 0, "atol": tolerance}
        torch.testing.assert_close(with_signs_of(factors.lora_A, A), factors.lora_A, **close)
        torch.testing.assert_close(with_signs_of(factors.lora_B.T, B.T), factors.lora_B.T, **close)
        effective = layer.weight.detach() + S * factors.product()
        torch.testing.assert_close(base + S * B @ A, effective, rtol=0, atol=1e-5)
        assert found[name].scaling["default"] == layer.scaling == S


@pytest.mark.parametrize(
    ("method", "init"),
    [(built("pissa", scaling="alpha_over_r"), "pissa"), (built("olora"), "olora"), (built("mica"), "mica")],
    ids=lambda value: getattr(value, "label", value),
)
def test_a_decomposition_of_w_is_pefts(tiny_model, batch, method, init):
    given = batch(2, 6)
    model, mine = ours(tiny_model(), method, given)
    wrapped = theirs(tiny_model(), init)[1]()
    compare(mine, wrapped, 2e-5)
    for name, layer in mine.items():  # products of paired vectors have no sign left: base weights are equal too
        torch.testing.assert_close(parts(peft_layers(wrapped)[name])[2], layer.weight.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(model, given), logits(wrapped, given), rtol=0, atol=2e-5)
    trained = {n.split(".")[-3] for n, p in wrapped.named_parameters() if p.requires_grad}
    assert trained == method.trains


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_corda_is_pefts(tiny_model, batch, mode):
    given, base = batch(40, 6), tiny_model()
    model, mine = ours(tiny_model(), built("corda", scaling="alpha_over_r", mode=mode), given)
    config, wrap = theirs(base, "corda", corda_config=CordaConfig(corda_method=mode))

    def run_model():  # PEFT takes each call for one sample
        for ids in given["input_ids"]:
            base(input_ids=ids[None])

    preprocess_corda(base, config, run_model=run_model)
    wrapped = wrap()
    for name, layer in mine.items():
        factors, (A, B, kept) = layer.factors(), parts(peft_layers(wrapped)[name])
        for found, own in (
            (with_signs_of(factors.lora_A, A), factors.lora_A),
            (with_signs_of(factors.lora_B.T, B.T), factors.lora_B.T),
            (B @ A, factors.product()),
            (kept, layer.weight),
        ):
            assert (found - own).norm() < 1e-4 * own.norm()
    torch.testing.assert_close(logits(model, given), logits(wrapped, given), rtol=0, atol=1e-4)


def test_the_lora_ga_of_peft_is_pefts_and_not_the_papers(tiny_model, batch):
    given, base = batch(4, 6), tiny_model()
    model, mine = ours(tiny_model(), built("lora_ga_peft"), given)
    config, wrap = theirs(base, "lora_ga", lora_ga_config=LoraGAConfig())

    def train_step():
        base(**given).loss.backward()

    preprocess_loraga(base, config, train_step)
    wrapped = wrap()
    compare(mine, wrapped, 1e-4)
    torch.testing.assert_close(logits(model, given), logits(wrapped, given), rtol=0, atol=1e-4)
    papers = ours(tiny_model(), built("lora_ga", scaling="alpha_over_r"), given)[1]
    for name, layer in mine.items():
        found, paper = layer.factors(), papers[name].factors()
        length = len(layer.weight) ** 0.25 / 4
        assert paper.lora_A.norm(dim=1).tolist() == pytest.approx([length] * R, rel=1e-4)
        assert paper.lora_B.norm(dim=0).tolist() == pytest.approx([length] * R, rel=1e-4)
        assert found.lora_A.norm(dim=1).tolist() == pytest.approx([1.0] * R, rel=1e-4)
        assert found.lora_B.norm(dim=0).max() < 0.5 * length


@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_eva_converges_to_pefts_components_and_ranks(tiny_model, batch, rho):
    given, base = batch(40, 6), tiny_model()
    model, mine = ours(tiny_model(), built("eva", rho=rho), given)
    _, wrap = theirs(base, "eva", eva_config=EvaConfig(rho=rho, tau=0.9999))
    wrapped = wrap()
    initialize_lora_eva_weights(wrapped, [given], show_progress_bar=False)
    found = peft_layers(wrapped)
    # Layers with equal inputs tie, and PEFT breaks ties between them by an unstable sort.
    groups = {"q_proj": "attention", "k_proj": "attention", "v_proj": "attention", "gate_proj": "mlp", "up_proj": "mlp"}
    ranks: dict[tuple, list] = {}
    for name, layer in mine.items():
        group = name.split(".")[2], groups.get(name.rpartition(".")[2], name)
        r = len(parts(found[name])[0]) if name in found else 0
        ranks.setdefault(group, []).append((len(layer.parameters().get("lora_A", ())), r))
    for pairs in ranks.values():
        assert sorted(own for own, _ in pairs) == sorted(peft for _, peft in pairs)
    for name, module in found.items():
        A, B, kept = parts(module)
        own = mine[name].factors()
        if own is None:
            continue
        shared = min(len(A), len(own.lora_A))
        cosines = (with_signs_of(own.lora_A[:shared], A[:shared]) * own.lora_A[:shared]).sum(dim=1)
        assert cosines.min() > 0.99
        assert not B.any()
        assert torch.equal(kept, mine[name].weight)
        assert module.scaling["default"] == pytest.approx(mine[name].scaling)
    torch.testing.assert_close(logits(model, given), logits(wrapped, given), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "init"),
    [
        (built("hu"), True),
        (built("hu", distribution="gaussian"), "gaussian"),
        (built("orthogonal"), "orthogonal"),
    ],
    ids=lambda value: getattr(value, "label", value),
)
def test_random_factors_are_pefts_of_the_same_seed(tiny_model, method, init):
    for name, module in peft_layers(theirs(tiny_model(), init)[1]()).items():
        base = module.get_base_layer().weight.detach()
        torch.manual_seed(3)
        if init == "orthogonal":
            module.orthogonal_init("default")
        else:
            module.reset_lora_parameters("default", init)
        drawn = method.factors(Layer(name, base, R, S), torch.Generator().manual_seed(3))
        A, B, _ = parts(module)
        torch.testing.assert_close(drawn.lora_A, A, rtol=0, atol=1e-6)
        torch.testing.assert_close(drawn.lora_B, B, rtol=0, atol=1e-6)


def test_rslora_is_pefts(tiny_model, batch):
    _, mine = ours(tiny_model(), built("hu", scaling="alpha_over_sqrt_r"), batch(2, 6))
    wrapped = theirs(tiny_model(), True, use_rslora=True)[1]()
    assert {layer.scaling for layer in mine.values()} == {4.0}
    assert {module.scaling["default"] for module in peft_layers(wrapped).values()} == {4.0}


def test_dora_on_pissa_is_pefts(tiny_model, batch):
    given = batch(2, 6)
    model, mine = ours(tiny_model(), built("pissa", scaling="alpha_over_r"), given, replace(PLAIN, use_dora=True))
    wrapped = theirs(tiny_model(), "pissa", use_dora=True)[1]()
    for name, module in peft_layers(wrapped).items():
        expected = module.lora_magnitude_vector["default"].weight.detach()
        torch.testing.assert_close(mine[name].magnitude(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(logits(model, given), logits(wrapped, given), rtol=0, atol=2e-5)


def test_the_fast_svd_of_pissa_is_pefts_of_the_same_seed(tiny_model):
    drawn = int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(3)))
    method = built("pissa_niter", niter=2)
    for name, module in peft_layers(theirs(tiny_model(), True)[1]()).items():
        base = module.get_base_layer().weight.detach().clone()
        factors = method.factors(Layer(name, base, R, S), torch.Generator().manual_seed(3))
        torch.manual_seed(drawn)
        module.pissa_init("default", "pissa_niter_2")
        A, B, kept = parts(module)
        torch.testing.assert_close(factors.lora_A, A, rtol=0, atol=1e-6)
        torch.testing.assert_close(factors.lora_B, B, rtol=0, atol=1e-6)
        torch.testing.assert_close(base - S * factors.product(), kept, rtol=0, atol=1e-6)


@pytest.mark.parametrize("halves", ["psoft_init", "pissa_init"])
def test_the_start_of_psoft_is_pefts(tiny_model, batch, halves):
    given = batch(2, 6)
    model, mine = ours(tiny_model(), built("psoft", halves=halves), given)
    settings = {"psoft_orth": False, "psoft_mag_a": False, "psoft_mag_b": False}
    config = PsoftConfig(r=R, psoft_alpha=ALPHA, target_modules=list(TARGETS), ab_svd_init=halves, **settings)
    wrapped = get_peft_model(tiny_model(), config)
    torch.testing.assert_close(logits(model, given), logits(wrapped, given), rtol=0, atol=2e-5)
    for name, layer in mine.items():
        module, factors = wrapped.base_model.model.get_submodule(name), layer.factors()
        middle = module.psoft_R["default"].weight.data
        torch.testing.assert_close(middle, factors.lora_R, rtol=0, atol=0)
        for i, j in ((0, 0), (3, 1)):  # s B[:, i] A[j] is what one more in R's entry (i, j) adds
            middle[i, j] += 1
            found, own = module.get_delta_weight("default"), S * torch.outer(factors.lora_B[:, i], factors.lora_A[j])
            torch.testing.assert_close(found.abs(), own.abs(), rtol=0, atol=2e-5)
            middle[i, j] -= 1


def test_dude_is_pissa_with_dora_whose_magnitudes_are_those_of_the_pretrained_w(tiny_model, batch):
    pretrained = {
        name: module.weight.detach() for name, module in tiny_model().named_modules() if name.endswith("proj")
    }
    _, mine = ours(tiny_model(), built("pissa"), batch(2, 6), replace(PLAIN, use_dora=True))
    for name, layer in mine.items():
        torch.testing.assert_close(layer.magnitude(), pretrained[name].norm(dim=1), rtol=1e-5, atol=0)
