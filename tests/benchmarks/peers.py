"""The published ways to the same starts: PEFT's LoRA-GA, and the SVDs of the authors' code of LoRA-SB and LoRA-XS."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from peft import LoraConfig, LoraGAConfig, PeftModel, get_peft_model, preprocess_loraga
from sklearn.decomposition import TruncatedSVD
from torch import Tensor
from transformers import PreTrainedModel

from shape import TARGET_MODULES, target_layers

# A layer's name -> columns that span its start's left side (out, r) and right side (in, r); not orthonormal.
Spans = dict[str, tuple[Tensor, Tensor]]


def lora_ga_config(r: int) -> LoraConfig:
    """PEFT's LoRA-GA with its own defaults (direction ArB2r, scale "stable") and the suite's lora_alpha = 2r."""
    return LoraConfig(
        r=r,
        lora_alpha=2 * r,
        target_modules=list(TARGET_MODULES),
        init_lora_weights="lora_ga",
        lora_ga_config=LoraGAConfig(),
    )


def lora_ga_gradient(model: PreTrainedModel, batches: Iterable[dict[str, Tensor]], r: int = 8) -> None:
    """The first half of PEFT's LoRA-GA, as its documentation has it: leaves the mean gradients on the modules."""

    def train_step() -> None:
        for batch in batches:
            model(**batch).loss.backward()

    model.train()
    preprocess_loraga(model, lora_ga_config(r), train_step)


def lora_ga_factors(model: PreTrainedModel, r: int) -> PeftModel:
    """The second half: adapters, their factors by svd_lowrank(q = 4r, niter = 4), and the shifted base weights."""
    return get_peft_model(model, lora_ga_config(r))


def lora_ga_from_gradients(model: PreTrainedModel, gradients: dict[str, Tensor], r: int) -> PeftModel:
    """As `lora_ga_factors`, of these gradients: they are put where preprocess_loraga leaves its own."""
    for name, layer in target_layers(model).items():
        layer._peft_loraga_grad = gradients[name]
    return lora_ga_factors(model, r)


def lora_ga_spans(wrapped: PeftModel) -> Spans:
    """The columns of every lora_B and lora_Aᵀ."""
    modules = dict(wrapped.base_model.model.named_modules())
    layers = {name: module for name, module in modules.items() if getattr(module, "lora_A", None)}
    return {
        name: (layer.lora_B["default"].weight.detach(), layer.lora_A["default"].weight.detach().T)
        for name, layer in layers.items()
    }


def lora_sb_spans(gradients: dict[str, Tensor], r: int) -> Spans:
    """As the authors' get_svd_grad: q = r, ten power iterations, on the transposed signs."""
    spans = {}
    for name, gradient in gradients.items():
        right, _, left = torch.svd_lowrank(gradient.sign().T, q=r, niter=10)
        spans[name] = (left, right)
    return spans


def lora_xs_spans(weights: dict[str, Tensor], r: int) -> Spans:
    """As the authors' run_svd: scikit-learn's randomised SVD of Wᵀ."""
    spans = {}
    for name, weight in weights.items():
        svd = TruncatedSVD(n_components=r, n_iter=10, random_state=42)
        right = svd.fit_transform(weight.T.numpy())
        spans[name] = (torch.from_numpy(svd.components_.T.copy()), torch.from_numpy(right))
    return spans
