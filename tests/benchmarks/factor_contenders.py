"""Ways from stored gradients and weights to factors; each function is called in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

import floors
import ours
import peers
from accuracy import LEADING, LORA_GA, subspace_errors, write_reference
from cost import measured
from shape import LLAMA_TINY, Shape, target_layers

GRADIENTS = "gradients.safetensors"


@dataclass(frozen=True)
class FactorCost:
    """Seconds of all layers' factors, and a subspace error a layer."""

    seconds: float
    errors: list[float]


def store(shape: Shape, num_samples: int, folder: Path, num_vectors: int) -> None:
    """Writes the gradients, and the exact singular vectors of gradients, signs and weights, for all contenders."""
    model = shape.model()
    gradients = {name: gradient.contiguous() for name, gradient in _gradients(model, shape, num_samples).items()}
    save_file(gradients, folder / GRADIENTS)
    signs = {name: gradient.sign() for name, gradient in gradients.items()}
    for method, matrices in {"lora_ga": gradients, "lora_sb": signs, "lora_xs": _weights(model)}.items():
        write_reference(matrices, num_vectors, reference(folder, method))


def reference(folder: Path, method: str) -> Path:
    """Where the exact singular vectors lie that a method's factors are made of."""
    return folder / f"{method}.safetensors"


def lora_ga_peft(shape: Shape, folder: Path, ranks: Sequence[int]) -> dict[int, FactorCost]:
    """PEFT's get_peft_model, from adding the adapters to shifting the base weights."""

    def prepare(model: PreTrainedModel, gradients: dict[str, Tensor]) -> PreTrainedModel:
        peers.give_gradients(model, gradients)
        return model

    return _timed("lora_ga", shape, folder, ranks, prepare, peers.lora_ga_factors, peers.lora_ga_spans)


def lora_ga_ours(shape: Shape, folder: Path, ranks: Sequence[int]) -> dict[int, FactorCost]:
    """The suite's, from adding the adapters to shifting the base weights."""
    return _timed(
        "lora_ga",
        shape,
        folder,
        ranks,
        lambda model, gradients: (model, gradients),
        lambda given, r: ours.adapted(given[0], "lora_ga", r, given[1]),
        ours.spans,
    )


def lora_sb_peer(shape: Shape, folder: Path, ranks: Sequence[int]) -> dict[int, FactorCost]:
    """The SVDs of LoRA-SB's published code."""
    return _timed("lora_sb", shape, folder, ranks, lambda _model, gradients: gradients, peers.lora_sb_spans, _same)


def lora_sb_ours(shape: Shape, folder: Path, ranks: Sequence[int]) -> dict[int, FactorCost]:
    """The suite's LoRA-SB."""
    return _timed(
        "lora_sb", shape, folder, ranks, _matrices, lambda given, r: _factors("lora_sb", r, given), ours.spans
    )


def lora_xs_peer(shape: Shape, folder: Path, ranks: Sequence[int]) -> dict[int, FactorCost]:
    """The SVDs of LoRA-XS's published code."""
    return _timed(
        "lora_xs", shape, folder, ranks, lambda model, _gradients: _weights(model), peers.lora_xs_spans, _same
    )


def lora_xs_ours(shape: Shape, folder: Path, ranks: Sequence[int]) -> dict[int, FactorCost]:
    """The suite's LoRA-XS."""
    return _timed(
        "lora_xs", shape, folder, ranks, _matrices, lambda given, r: _factors("lora_xs", r, given), ours.spans
    )


def _timed(
    method: str,
    shape: Shape,
    folder: Path,
    ranks: Sequence[int],
    prepare: Callable[[PreTrainedModel, dict[str, Tensor]], Any],
    make: Callable[[Any, int], Any],
    spans: Callable[[Any], peers.Spans],
) -> dict[int, FactorCost]:
    """Times `make` at each rank, on a new model; `prepare` before and `spans` after are not timed."""
    tiny = LLAMA_TINY.model()
    make(prepare(tiny, _gradients(LLAMA_TINY.model(), LLAMA_TINY, 4)), 4)  # libraries that start lazily start here
    gradients, costs = load_file(folder / GRADIENTS), {}
    for r in ranks:
        given = prepare(shape.model(), gradients)
        with measured() as cost:
            made = make(given, r)
        columns = LORA_GA if method == "lora_ga" else LEADING
        costs[r] = FactorCost(cost.seconds, subspace_errors(spans(made), reference(folder, method), columns, r))
    return costs


def _gradients(model: PreTrainedModel, shape: Shape, num_samples: int) -> dict[str, Tensor]:
    return floors.mean_gradients(model, shape.batches(num_samples))


def _weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: layer.weight.detach() for name, layer in target_layers(model).items()}


def _matrices(model: PreTrainedModel, gradients: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return _weights(model), gradients


def _factors(method: str, r: int, given: tuple[dict[str, Tensor], dict[str, Tensor]]) -> dict:
    return ours.factors(method, r, *given)


def _same(spans: peers.Spans) -> peers.Spans:
    return spans
