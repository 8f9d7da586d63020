"""A run's model, counted on the meta device; and what its layers alone tell against a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from bench.config import Run


class UnknownSizeError(ValueError):
    """A model whose configuration cannot be had here."""


@dataclass(frozen=True)
class Sizes:
    """A run's model, counted on the meta device.

    Attributes:
        frozen: parameters kept as they were loaded.
        frozen_added: of the adapter, in float32 though nothing trains them.
        trainable: parameters that the optimiser moves, a head's included.
        multiplied: of all linear layers, the adapter's included: what each token is multiplied with.
        multiplied_trained: of those, the trained ones.
        target: of the weights of the target layers.
        statistics: numbers that calibration adds up.
        blocks: of an encoder-decoder those of both.
        outputs: logits a token (vocabulary) or, of an encoder, an example.
    """

    frozen: int
    frozen_added: int
    trainable: int
    multiplied: int
    multiplied_trained: int
    target: int
    statistics: int
    blocks: int
    heads: int
    hidden_size: int
    outputs: int


_counted: dict[str, Sizes] = {}


def sizes(run: Run) -> Sizes:
    """Counts a run's model without weights and without a network.

    Raises:
        UnknownSizeError: a model on the Hub of which conf/model says nothing.
        ValueError: the method cannot have this rank in some layer.
    """
    if run.model.source == "hub" and run.model.architecture is None:
        raise UnknownSizeError("no architecture in conf/model")
    values = run.to_dict()
    parts = [values[key] for key in ("model", "method", "rank", "adapter", "svd")]
    key = json.dumps([*parts, run.task.num_labels], sort_keys=True)
    if key not in _counted:
        _counted[key] = _count(run)
    return _counted[key]


def _count(run: Run) -> Sizes:
    import torch

    from bench import adapter

    model = run.model.skeleton(run.task.num_labels)
    config: Any = model.config.get_text_config()
    layers = adapter.target_layers(model, run.model.target_modules)
    shapes = [(layer.out_features, layer.in_features) for layer in layers.values()]
    loaded = {id(parameter) for parameter in model.parameters()}
    _check_rank(run, layers)
    with torch.device("meta"):
        trained, _ = adapter.add(model, run.method, run.rank, layers, run.adapter)
    multiplied = [module.weight for module in trained.modules() if isinstance(module, torch.nn.Linear)]
    frozen = [parameter for parameter in trained.parameters() if not parameter.requires_grad]
    decoder = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None) or 0
    kind = run.model.found_kind
    return Sizes(
        frozen=sum(parameter.numel() for parameter in frozen if id(parameter) in loaded),
        frozen_added=sum(parameter.numel() for parameter in frozen if id(parameter) not in loaded),
        trainable=sum(parameter.numel() for parameter in trained.parameters() if parameter.requires_grad),
        multiplied=sum(weight.numel() for weight in multiplied),
        multiplied_trained=sum(weight.numel() for weight in multiplied if weight.requires_grad),
        target=sum(rows * columns for rows, columns in shapes),
        statistics=_num_statistics(run, shapes),
        blocks=config.num_hidden_layers + (decoder if kind == "seq2seq" else 0),
        heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        outputs=config.num_labels if kind == "encoder" else config.vocab_size,
    )


def _check_rank(run: Run, layers: Mapping[str, nn.Linear]) -> None:
    """What the run itself refuses as soon as its model is loaded."""
    from bench import adapter
    from bench.methods.base import AdapterMethod, DemandingMethod, Layer, scaling_value

    if isinstance(run.method, AdapterMethod):
        adapter.check_rank(dict(layers), run.rank)
    if isinstance(run.method, DemandingMethod):
        scaling = scaling_value(run.method.scaling, run.rank)
        for name, layer in layers.items():
            run.method.check(Layer(name, layer.weight, run.rank.r, scaling, learning_rates=run.learning_rates))


def refusal(run: Run) -> str | None:
    """Why a run whose configuration is valid would fail all the same; None if nothing is known against it."""
    try:
        sizes(run)
    except UnknownSizeError:
        return None
    except ValueError as error:
        return str(error)
    return None


def _num_statistics(run: Run, shapes: list[tuple[int, int]]) -> int:
    from bench.calibrate.result import Wanted

    wanted = Wanted.by(run.method, run.rank, run.svd)
    covariances = len(wanted.keeps - {"gradient"})
    gradients = wanted.gradient and not wanted.sketched
    return sum(gradients * rows * columns + covariances * columns**2 for rows, columns in shapes)
