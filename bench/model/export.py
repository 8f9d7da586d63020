"""A trained adapter as stock PEFT's, for the unmodified pretrained model.

PEFT knows W + s B A only. A shifted adapter, trained on W - s B0 A0, becomes the difference of products
B A - B0 A0, of rank 2r; the matrix R between A and B is multiplied into B, and so is diag(E), without the columns where
E is zero: a layer of which no column is left has no adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench.methods.base import AdapterOptions, Factors, Method, Rank
from bench.model import adapter, weights
from bench.model.adapter import AdaptedLayer
from bench.model.layers import heads, mark_drawn, target_layers
from bench.model.load import Kind, LoadedModel, Model
from bench.model.weights import Saved
from bench.systems.base import System
from bench.systems.none import NO_SYSTEM

# PEFT's names; it has none for a classifier of images.
TASK_TYPES: dict[Kind, str] = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "encoder": "SEQ_CLS"}


@dataclass(frozen=True)
class Restored:
    """A trained model in float32 masters, ready to be used or trained further; `initial` are its starting factors."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: list[AdaptedLayer]
    initial: dict[str, Factors]

    def save_merged(self, to: Path) -> None:
        """Writes whole weights as save_pretrained does, each adapter added to its weight, and the tokenizer."""
        model: Any = self.model
        merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
        merged.save_pretrained(to)
        self.tokenizer.save_pretrained(to)


def restored(
    path: Path,
    loaded: LoadedModel,
    target_modules: tuple[str, ...] | None,
    method: Method,
    rank: Rank,
    options: AdapterOptions,
    system: System = NO_SYSTEM,
) -> Restored:
    """Turns the pretrained model, in place, into the one that a run trained.

    Args:
        path: what the run trained, as `weights.save` wrote it.
        loaded: the pretrained model.
        target_modules: as `target_layers` takes them.
        method: of the run.
        rank: of the run.
        options: DoRA and LoRA+ of the run.
        system: of the run.

    Raises:
        ValueError: the weights are not of this method and rank.
    """
    layers = target_layers(loaded.model, target_modules)
    model, adapted, initial = weights.load(Saved.read(path), loaded.model, method, rank, layers, options, system)
    return Restored(model, loaded.tokenizer, adapted, initial)


def save_adapter(path: Path, source: Model, num_labels: int | None, shifted: bool, use_dora: bool, to: Path) -> None:
    """Writes adapter_model.safetensors and adapter_config.json, with a trained head; reads no pretrained weights.

    Args:
        path: what the run trained, as `weights.save` wrote it; it must hold an adapter.
        source: the pretrained model.
        num_labels: outputs of a classification head.
        shifted: whether the base weights were W - s B0 A0 in training.
        use_dora: whether the adapter has DoRA's magnitudes.
        to: the folder to write.

    Raises:
        ValueError: a system has set every E to zero.
    """
    saved = Saved.read(path)
    parts = {name: _on_pretrained(saved, name, shifted) for name in saved.names}
    parts = {name: tensors for name, tensors in parts.items() if len(tensors["lora_A"])}
    if not parts:
        raise ValueError("every layer's rank is zero: the trained model is the pretrained one, and has no adapter")
    ranks = {name: len(tensors["lora_A"]) for name, tensors in parts.items()}
    r = max(set(ranks.values()), key=list(ranks.values()).count)
    other = {name: rank for name, rank in ranks.items() if rank != r}
    skeleton = source.skeleton(num_labels)
    mark_drawn(skeleton, saved.head)
    beside = heads(skeleton)
    config = LoraConfig(
        r=r,
        lora_alpha=saved.scaling * r,  # type: ignore[arg-type]  # PEFT says int and takes any number
        rank_pattern=other,
        alpha_pattern={name: saved.scaling * rank for name, rank in other.items()},
        target_modules=list(ranks),
        use_dora=use_dora,
        task_type=TASK_TYPES.get(source.found_kind),
        modules_to_save=list(beside) or None,
        revision=source.revision,
        base_model_name_or_path=source.path if source.source == "hub" else str(source.place),
    )
    model: Any = get_peft_model(skeleton, config, low_cpu_mem_usage=True)
    plain = model.base_model.model
    for name, tensors in parts.items():
        module = plain.get_submodule(name)
        for part, tensor in tensors.items():
            getattr(module, part)[adapter.ADAPTER].weight = nn.Parameter(tensor, requires_grad=False)
    for name in beside:
        trained = {key.removeprefix(f"{name}."): t for key, t in saved.head.items() if key.startswith(f"{name}.")}
        plain.get_submodule(name).modules_to_save[adapter.ADAPTER].load_state_dict(trained, assign=True)
    model.save_pretrained(str(to), save_embedding_layers=False)


def _on_pretrained(saved: Saved, name: str, shifted: bool) -> dict[str, Tensor]:
    """A layer's A, B and DoRA magnitudes such that the pretrained W and s B A make the trained layer."""
    parts, start = saved.parts(name), saved.initial(name)
    A, B = parts["lora_A"], parts["lora_B"]
    if "lora_R" in parts:
        B = B @ parts.pop("lora_R")
    if "lora_E" in parts:
        E = parts.pop("lora_E")
        A, B = A[E != 0], (B * E)[:, E != 0]
    if "lora_o" in parts:
        B = parts.pop("lora_o")[:, None] * B
    if shifted and not start.vanishes():
        A, B = torch.cat([A, start.right()]), torch.cat([B, -start.left()], dim=1)
    return parts | {"lora_A": A.contiguous(), "lora_B": B.contiguous()}
