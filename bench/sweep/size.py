"""A run's model counted on the meta device: what it refuses, and the seconds and bytes that follow from its size.

A forward pass takes 2 FLOPs a weight and token, a backward pass 2 more for the gradient of its input and 2 more for
that of a trained weight (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). Tokens are counted from above: each
example as long as task.max_length, each answer as long as its definition allows. Left out are reading data, decomposing
matrices, memory that an allocator leaves unused, the attention matrix of model.attention=eager, and the logits of
scoring, whose batch is halved if they do not fit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.model.kinds import CLASSIFIERS

if TYPE_CHECKING:
    from torch import nn

    from bench.config import Run
    from bench.runs.record_parts import TrainConfig
    from bench.tasks.data import Dataset
    from bench.train.settings import Train

# Python and kernel launches of one pass through one block, assumed: 26 ms a generated token for the 32 blocks of Llama
# 2 7B. Small models, and generation on a GPU, wait for it.
BLOCK_SECONDS = 0.8e-3
READ_BYTES_PER_SECOND = 1e9  # of a checkpoint
TRAINED_BYTES = 16  # a parameter: float32 master, gradient, and AdamW's two moments
# Resident set with torch, transformers and lm-eval imported: the load phase of results/demo and minilm_glue.
PROCESS_BYTES = 560 * 2**20
GUESSED_CHOICES = 4  # where a definition computes them from the row; the tests of commonsense have two to five


@dataclass(frozen=True)
class Size:
    """A model without adapter, counted on the meta device.

    Attributes:
        layers: the target layers by name.
        parameters: all of them.
        head: those of a classification head.
        linear: weights of all linear layers, the head's included.
        blocks: transformer blocks, of encoder and decoder together.
        outputs: logits a token (vocabulary) or, of a classifier, an example.
        patches: tokens of an image; None of a model of texts.
    """

    layers: Mapping[str, nn.Linear]
    parameters: int
    head: int
    linear: int
    blocks: int
    hidden_size: int
    outputs: int
    patches: int | None = None


_sizes: dict[tuple[str, int | None], Size] = {}


def size(run: Run) -> Size:
    """Counts a run's model without weights and without a network, each model once.

    Raises:
        ValueError: the configuration describes no model, or model.target_modules matches no layer.
    """
    from torch import nn

    from bench.model.images import num_patches
    from bench.model.layers import heads, target_layers

    key = (repr(run.model), run.task.num_labels)
    if key in _sizes:
        return _sizes[key]
    model = run.model.skeleton(run.task.num_labels, run.cache)
    config: Any = model.config.get_text_config()
    decoder = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None) or 0
    kind = run.model.found_kind
    _sizes[key] = Size(
        layers=target_layers(model, run.model.target_modules),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        head=sum(parameter.numel() for head in heads(model).values() for parameter in head.parameters()),
        linear=sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear)),
        blocks=config.num_hidden_layers + (decoder if kind == "seq2seq" else 0),
        hidden_size=config.hidden_size,
        outputs=config.num_labels if kind in CLASSIFIERS else config.vocab_size,
        patches=num_patches(config, (config.image_size,) * 2) if kind == "vision" else None,
    )
    return _sizes[key]


def is_unknown(run: Run) -> bool:
    """Whether nothing is known of the model without asking the Hub."""
    return run.model.source == "hub" and run.model.architecture is None


def refusal(run: Run) -> str | None:
    """Why a valid run would fail once its model is loaded: its rank or its method does not fit a layer; else None."""
    from bench.model.layers import check_start

    try:
        if not is_unknown(run):
            check_start(size(run).layers, run.method, run.rank, run.learning_rates, run.system)
    except ValueError as error:
        return str(error)
    return None


def trained_and_added(run: Run) -> tuple[int, int]:
    """Parameters that the optimiser moves, a head's included; and those of the adapter, trained or not."""
    counted, trains, r = size(run), run.system.trains(run.method), run.system.rank(run.rank).r
    if run.system.only_targets:
        return counted.head + sum(layer.weight.numel() for layer in counted.layers.values()), 0
    if not run.method.has_adapter:
        return (counted.parameters if "weight" in trains else 0), 0
    shapes = [layer.weight.shape for layer in counted.layers.values()]
    parts = {"lora_A": sum(r * columns for _, columns in shapes), "lora_B": sum(rows * r for rows, _ in shapes)}
    beside = {"lora_R": r * r * len(shapes), "lora_E": r * len(shapes), "lora_o": sum(rows for rows, _ in shapes)}
    parts |= {part: number for part, number in beside.items() if part in trains}
    magnitudes = sum(rows for rows, _ in shapes) if run.adapter.use_dora else 0
    return counted.head + magnitudes + sum(parts[part] for part in trains), sum(parts.values())


def num_examples(train: Train | TrainConfig) -> int:
    """Examples that training goes through, repeated ones counted again."""
    return train.max_steps * train.batch_size * train.gradient_accumulation_steps


def tokens_and_passes(run: Run) -> dict[str, tuple[int, int]]:
    """For each phase the tokens, padding included, and the batches that go through the model; upper bounds.

    `eval` is the eval loss during training, `measure` the alignment measures. Generation takes a pass a token.
    """
    from bench.train.curvature import NUM_PRODUCTS

    task, train, length = run.task, run.train, _length(run)

    def batches(examples: int, batch_size: int, times: int = 1) -> tuple[int, int]:
        return examples * length * times, math.ceil(examples / batch_size) * times

    found = {"score": _scoring(run)}
    if run.method.requires:
        found["calibrate"] = batches(task.calibration_samples, task.calibration_batch_size)
    if run.trains:
        found["train"] = batches(num_examples(train), train.batch_size)
        evaluations = math.ceil(train.max_steps / train.eval_steps) if train.eval_steps else 1
        found["eval"] = batches(task.eval_samples, train.batch_size, evaluations)
        if interval := run.measure.alignment_steps:
            found["measure"] = batches(2 * task.probe_samples, 2 * task.probe_samples, 1 + train.max_steps // interval)
        if rows := run.measure.curvature_rows:
            found["curvature"] = batches(rows, rows, 2 * NUM_PRODUCTS)
    return found


def _scoring(run: Run) -> tuple[int, int]:
    """Prompts with each choice or, where answers are generated, the longest one allowed; and targets for their loss."""
    tokens, passes, length = 0, 0, _length(run)
    for dataset in (run.task.datasets[name] for name in run.task.score):
        rows = 0 if dataset.runs_code else min(_num_rows(run, dataset), run.score.num_loss_rows)
        tokens += rows * length
        passes += math.ceil(rows / run.score.batch_size)
        if run.score.only_loss:
            continue
        generated, choices = _asked(dataset.definitions[run.task.template])
        if run.model.found_kind in CLASSIFIERS:
            generated, choices = 0, 1
        items = _num_items(run, dataset)
        items += min(items, run.score.merged_samples)
        tokens += items * (choices * length + generated)
        passes += math.ceil(items * choices / run.score.batch_size)
        passes += math.ceil(items / run.score.batch_size) * generated
    return tokens, passes


def _length(run: Run) -> int:
    """Tokens of an example: of a text at most, of an image exactly."""
    patches = None if is_unknown(run) or run.model.found_kind != "vision" else size(run).patches
    return run.task.max_length if patches is None else patches


def num_items(run: Run) -> int:
    """How many items a run scores, by the official number of rows of its datasets."""
    datasets = [run.task.datasets[name] for name in run.task.score]
    if run.score.only_loss:
        return sum(min(_num_rows(run, dataset), run.score.num_loss_rows) for dataset in datasets)
    return sum(_num_items(run, dataset) for dataset in datasets)


def _num_items(run: Run, dataset: Dataset) -> int:
    found = _num_rows(run, dataset)
    return found if run.score.limit is None else min(found, run.score.limit)


def _num_rows(run: Run, dataset: Dataset) -> int:
    if dataset.is_generated:
        return dataset.rows.get(run.score.split) or len(dataset.generated()[run.score.split])
    if run.score.split == "validation" or (test := dataset.splits.test) is None:
        return run.task.validation_samples
    local = run.task.data_root if test not in dataset.rows else None
    return dataset.rows.get(test, 0) if local is None else dataset.num_local(local, test)


@functools.cache
def _asked(definition: str) -> tuple[int, int]:
    """The tokens that a definition lets a model generate, and how many choices it has read.

    Functions that a definition of lm-eval names are not imported: HumanEval's fetch a metric and run code.
    """
    from bench.score.guard import max_gen_toks
    from bench.tasks.definition import load_yaml, read_definition
    from bench.tasks.definition_files import BUILT_IN, located

    built_in = located(definition).is_relative_to(BUILT_IN)
    content = load_yaml(located(definition), resolve_func=False) if built_in else read_definition(definition)
    if content["output_type"] == "generate_until":
        return max_gen_toks(content.get("generation_kwargs")), 1
    if content["output_type"] != "multiple_choice":
        return 0, 1
    choices = content.get("doc_to_choice")
    return 0, len(choices) if isinstance(choices, list) else GUESSED_CHOICES


def seconds(run: Run, flops_per_second: float) -> float:
    """Seconds of a run on a machine that computes so many FLOP/s in a model of this size."""
    counted = size(run)
    trained, added = trained_and_added(run)
    forward = 2 * (counted.linear + added)
    gradients = 3 * forward  # of every weight: calibration and the alignment measures
    flops = {"train": 2 * forward + min(2 * trained, forward), "measure": gradients}
    flops["curvature"] = 2 * gradients  # the derivative of a gradient takes what the gradient took once more
    flops |= {"calibrate": gradients} if "gradient" in run.method.requires else {}
    found = counted.parameters * _weight_bytes(run) / READ_BYTES_PER_SECOND
    for phase, (tokens, passes) in tokens_and_passes(run).items():
        launches = passes * (3 if phase in flops else 1)  # a backward pass takes twice as long
        found += tokens * flops.get(phase, forward) / flops_per_second + launches * counted.blocks * BLOCK_SECONDS
    return found


def peak_bytes(run: Run) -> int:
    """Memory at the peak of a run where its model is: weights, optimiser, activations and logits."""
    from bench.train.curvature import VECTOR_BYTES

    counted, phases, length = size(run), tokens_and_passes(run), _length(run)
    trained, added = trained_and_added(run)
    whole = "weight" in run.method.trains
    batch = max(
        run.train.batch_size if "train" in phases else 0,
        run.task.calibration_batch_size if "calibrate" in phases else 0,
        2 * run.task.probe_samples if "measure" in phases else 0,
    )
    target = sum(layer.weight.numel() for layer in counted.layers.values())
    frozen = 4 * max(0, added - trained) + (0 if whole else counted.parameters * _weight_bytes(run))
    pretrained = target * 4 if whole and "measure" in phases else 0  # the alignment measures keep a copy
    pretrained += target * 4 * run.system.num_copies
    # 34 s b h bytes a block at 16 bit: Korthikanti et al. 2022 (arXiv:2205.05198, table 2), without attention matrix.
    width = 1 if compute_dtype(run) == "bfloat16" else 2
    activations = width * counted.blocks * 34 * length * batch * counted.hidden_size
    logits = batch * counted.outputs * (1 if run.model.found_kind in CLASSIFIERS else length)
    a_parameter = max(TRAINED_BYTES, VECTOR_BYTES if run.measures_curvature and not run.sharded else 0)
    return frozen + trained * a_parameter + pretrained + activations + logits * 4 * 2  # and their gradient


def _weight_bytes(run: Run) -> int:
    return 2 if run.model.dtype == "bfloat16" else 4


def compute_dtype(run: Run) -> str:
    """The dtype of matrix products."""
    return "bfloat16" if run.model.dtype == "bfloat16" or run.train.precision == "bf16" else "float32"
