"""A run's model, counted on the meta device; and what its layers alone tell against a run."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Frame:
    """A model without an adapter.

    Attributes:
        layers: the target layers by name, on the meta device; equal shapes are one module.
        total: parameters, those of the head included.
        head: of those.
        linear: weights of all linear layers, the head's included.
        head_linear: of those.
    """

    layers: Mapping[str, nn.Linear]
    total: int
    head: int
    linear: int
    head_linear: int
    blocks: int
    heads: int
    hidden_size: int
    outputs: int


_frames: dict[tuple[str, int | None], Frame | ValueError] = {}
_counted: dict[tuple[str, ...], Sizes] = {}
_checked: dict[tuple[Any, ...], str | None] = {}


def sizes(run: Run) -> Sizes:
    """Counts a run's model without weights and without a network.

    Raises:
        UnknownSizeError: a model on the Hub of which conf/model says nothing.
        ValueError: the method cannot have this rank in some layer.
    """
    frame = _frame(run)
    key = _key(run)
    if (wrong := _wrong(run, frame, key)) is not None:
        raise ValueError(wrong)
    if key not in _counted:
        _counted[key] = _count(run, frame)
    return _counted[key]


def _key(run: Run) -> tuple[str, ...]:
    parts = (run.model, run.method, run.rank, run.adapter, run.svd)
    return (str(run.task.num_labels), *map(repr, parts))


def _frame(run: Run) -> Frame:
    """The model's own layers, counted once."""
    if run.model.source == "hub" and run.model.architecture is None:
        raise UnknownSizeError("no architecture in conf/model")
    key = repr(run.model), run.task.num_labels
    if key not in _frames:
        try:
            _frames[key] = _framed(run)
        except ValueError as error:
            _frames[key] = error
    found = _frames[key]
    if isinstance(found, ValueError):
        raise found
    return found


def _framed(run: Run) -> Frame:
    from torch import nn

    from bench.model.layers import heads, target_layers

    model = run.model.skeleton(run.task.num_labels)
    config: Any = model.config.get_text_config()
    layers = target_layers(model, run.model.target_modules)
    decoder = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None) or 0
    kind = run.model.found_kind

    def linear(module: Any) -> int:
        return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))

    by_shape = {layer.weight.shape: layer for layer in layers.values()}
    beside = list(heads(model).values())
    return Frame(
        layers={name: by_shape[layer.weight.shape] for name, layer in layers.items()},
        total=sum(parameter.numel() for parameter in model.parameters()),
        head=sum(parameter.numel() for head in beside for parameter in head.parameters()),
        linear=linear(model),
        head_linear=sum(map(linear, beside)),
        blocks=config.num_hidden_layers + (decoder if kind == "seq2seq" else 0),
        heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        outputs=config.num_labels if kind == "encoder" else config.vocab_size,
    )


def _count(run: Run, frame: Frame) -> Sizes:
    """What the method adds to the model, and which of its tensors are trained; bench.model.adapter does the same."""
    from bench.methods.base import AdapterMethod

    shapes = [(layer.out_features, layer.in_features) for layer in frame.layers.values()]
    trains, r = run.method.trains, run.rank.r
    target = sum(rows * columns for rows, columns in shapes)
    head, head_linear = (frame.head, frame.head_linear) if trains else (0, 0)
    parts: dict[str, int] = {}
    if isinstance(run.method, AdapterMethod):
        parts = {"lora_A": sum(r * columns for _, columns in shapes), "lora_B": sum(rows * r for rows, _ in shapes)}
        parts |= {"lora_R": r * r * len(shapes)} if "lora_R" in trains else {}
    trained = sum(size for part, size in parts.items() if part in trains)
    magnitudes = sum(rows for rows, _ in shapes) if parts and run.adapter.use_dora else 0
    whole = not parts and "weight" in trains
    return Sizes(
        frozen=0 if whole else frame.total - head,
        frozen_added=sum(parts.values()) - trained,
        trainable=frame.total if whole else head + trained + magnitudes,
        multiplied=frame.linear + sum(parts.values()),
        multiplied_trained=frame.linear if whole else head_linear + trained,
        target=target,
        statistics=_num_statistics(run, shapes),
        blocks=frame.blocks,
        heads=frame.heads,
        hidden_size=frame.hidden_size,
        outputs=frame.outputs,
    )


def _wrong(run: Run, frame: Frame, key: tuple[str, ...]) -> str | None:
    """What the run itself refuses as soon as its model is loaded; asked once for equal layers and learning rates."""
    from bench.methods.base import DemandingMethod

    demanding = isinstance(run.method, DemandingMethod)
    asked = (*key, run.learning_rates if demanding else None)
    if asked not in _checked:
        try:
            _check(run, frame, demanding)
            _checked[asked] = None
        except ValueError as error:
            _checked[asked] = str(error)
    return _checked[asked]


def _check(run: Run, frame: Frame, demanding: bool) -> None:
    from bench.methods.base import AdapterMethod, Layer, scaling_value
    from bench.model.layers import check_rank

    if isinstance(run.method, AdapterMethod):
        check_rank(dict(frame.layers), run.rank)
    if demanding:
        method: Any = run.method
        scaling = scaling_value(method.scaling, run.rank)
        for name, layer in frame.layers.items():
            method.check(Layer(name, layer.weight, run.rank.r, scaling, learning_rates=run.learning_rates))


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
    from bench.init.calibrate.result import Wanted

    wanted = Wanted.by(run.method, run.rank, run.svd)
    covariances = len(wanted.keeps - {"gradient"})
    gradients = wanted.gradient and not wanted.sketched
    return sum(gradients * rows * columns + covariances * columns**2 for rows, columns in shapes)
