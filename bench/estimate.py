"""What a run will take, before it starts: seconds from earlier records, else from sizes and a measured speed; memory.

Bounded from above: the tokens of training, calibration and scoring (each example as long as task.max_length, each
answer as long as its definition allows). Exact: weights, float32 masters, gradients and AdamW's moments. Guessed: how
much of a matrix product's speed a model reaches, and the activations (Korthikanti et al. 2022, arXiv:2205.05198,
table 2, counted for GPT's layer). Left out: decomposing matrices, reading data, memory that an allocator leaves unused,
and the logits of scoring, whose batch is halved where they do not fit.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.record import COMPLETED, Record

if TYPE_CHECKING:
    from torch import nn

    from bench.config import Run
    from bench.tasks.data import Dataset

# Of the speed of one large matrix product. On a GPU 0.35 is assumed, not measured: the middle of the 0.21 to 0.46 that
# Chowdhery et al. 2022 (arXiv:2204.02311, table 3) report for pretraining, there of the hardware's peak. On a CPU
# the bound on the tokens counts padding that is never computed: with 0.9 of 100 GFLOP/s the records of results/demo are
# met within a third, and those of results/minilm_glue, whose sentences fill a tenth of max_length, are two to four
# times shorter (tests/test_estimate.py).
UTILISATION = {"gpu": 0.35, "cpu": 0.9}
# Python and kernel launches of one pass through one block, assumed: 26 ms a generated token for the 32 blocks of Llama
# 2 7B. It is what small models and generation on a GPU wait for.
BLOCK_SECONDS = 0.8e-3
READ_BYTES_PER_SECOND = 1e9  # of a checkpoint
# Resident set with torch, transformers and lm-eval imported: the load phase of results/demo and minilm_glue.
PROCESS_BYTES = 560 * 2**20
TRAINED_BYTES = 16  # a parameter: float32 master, gradient, and AdamW's two moments
GUESSED_CHOICES = 4  # where a definition computes them from the row; the tests of commonsense have two to five


class UnknownSizeError(ValueError):
    """A model whose configuration cannot be had here."""


@dataclass(frozen=True)
class Estimate:
    """Of one run.

    Attributes:
        seconds: None where nothing is known of the model.
        peak_bytes: on the GPU where there is one, else of the process.
        source: what both come from, in words: "from 3 records", "from sizes on ...", or why there are none.
    """

    seconds: float | None
    peak_bytes: int | None
    source: str


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


@dataclass(frozen=True)
class Passes:
    """What goes through a model in one phase, as upper bounds.

    Attributes:
        tokens: padding included.
        batches: passes one after another; of generation, one a token.
    """

    tokens: int
    batches: int

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.tokens + other.tokens, self.batches + other.batches)

    def times(self, count: int) -> Passes:
        """The same so many times."""
        return Passes(self.tokens * count, self.batches * count)


def passes(run: Run) -> dict[str, Passes]:
    """Of each phase; `held_out` is the loss looked at during training, `measure` the alignment at its intervals."""
    task, train = run.task, run.train
    found = {"score": _scoring(run)}
    if run.method.requires:
        found["calibrate"] = _passes(task.calibration_samples, task.max_length, task.calibration_batch_size)
    if not run.trains:
        return found
    batches = train.max_steps * train.gradient_accumulation_steps
    found["train"] = _passes(batches * train.batch_size, task.max_length, train.batch_size)
    looked = math.ceil(train.max_steps / train.held_out_steps) if train.held_out_steps else 1
    found["held_out"] = _passes(task.held_out_samples, task.max_length, train.batch_size).times(looked)
    if interval := run.measure.alignment_steps:
        found["measure"] = _passes(2 * task.probe_samples, task.max_length, 2 * task.probe_samples).times(
            1 + train.max_steps // interval
        )
    return found


def _passes(examples: int, length: int, batch_size: int) -> Passes:
    return Passes(examples * length, math.ceil(examples / batch_size))


def _scoring(run: Run) -> Passes:
    """Prompts with each choice or, where answers are generated, with the longest answer allowed."""
    found = Passes(0, 0)
    for dataset in (run.task.datasets[name] for name in run.task.score):
        generated, choices = _asked(dataset.definitions[run.task.template])
        if run.model.found_kind == "encoder":
            generated, choices = 0, 1
        items = num_items(run, dataset)
        items += min(items, run.score.merged_samples)
        found += _passes(items * choices, run.task.max_length, run.score.batch_size)
        found += Passes(items * generated, math.ceil(items / run.score.batch_size) * generated)
    return found


def num_items(run: Run, dataset: Dataset) -> int:
    """How many items of a dataset a run scores, by the official number of rows."""
    if run.score.split == "selection" or (dataset.hub is not None and dataset.splits.test is None):
        found = run.task.selection_samples
    elif dataset.hub is None:
        from bench.embedded.items import SPLITS

        found = SPLITS["test"]
    else:
        found = dataset.rows.get(dataset.splits.test or "", 0)
    return found if run.score.limit is None else min(found, run.score.limit)


@functools.cache
def _asked(definition: str) -> tuple[int, int]:
    """The tokens that a definition lets a model generate, and how many choices it has read."""
    from bench.score.guard import max_gen_toks
    from bench.tasks.definition import read_definition

    content = read_definition(definition)
    if content["output_type"] == "generate_until":
        return max_gen_toks(content.get("generation_kwargs")), 1
    if content["output_type"] != "multiple_choice":
        return 0, 1
    choices = content.get("doc_to_choice")
    return 0, len(choices) if isinstance(choices, list) else GUESSED_CHOICES


def seconds_by_phase(run: Run, counted: Sizes, flops_per_second: float, on_gpu: bool) -> dict[str, float]:
    """From sizes: 2 operations a parameter and token forward, 2 backward, and 2 for each parameter that is trained.

    Args:
        flops_per_second: of one large matrix product on this machine (`matmul_flops_per_second`).
    """
    speed = UTILISATION["gpu" if on_gpu else "cpu"] * flops_per_second
    forward = 2 * counted.multiplied
    of_gradients = 2 * forward + 2 * counted.target
    operations = {
        "calibrate": of_gradients if "gradient" in run.method.requires else forward,
        "train": 2 * forward + 2 * counted.multiplied_trained,
        "held_out": forward,
        "measure": of_gradients,
        "score": forward,
    }
    loaded = (counted.frozen + counted.trainable) * _weight_bytes(run)
    found = {"load": loaded / READ_BYTES_PER_SECOND}
    for phase, through in passes(run).items():
        both_ways = 1 if operations[phase] == forward else 3  # backward takes twice as long
        launching = through.batches * both_ways * counted.blocks * BLOCK_SECONDS
        found[phase] = through.tokens * operations[phase] / speed + launching
    return found


def bytes_by_part(run: Run, counted: Sizes, on_gpu: bool) -> dict[str, int]:
    """Memory at the peak: `totals` of calibration lie on the host or in files, all else on the model's device."""
    length, through = run.task.max_length, passes(run)
    batch = max(
        run.train.batch_size if "train" in through else 0,
        run.task.calibration_batch_size if "calibrate" in through else 0,
        2 * run.task.probe_samples if "measure" in through else 0,
    )
    # s b h (34 + 5 a s / h) a block at 16 bit; sdpa and flash attention do not keep the attention matrix.
    attention = 5 * counted.heads * length**2 * batch if run.model.attention == "eager" else 0
    width = 1 if compute_dtype(run) == "bfloat16" else 2
    logits = batch * counted.outputs * (1 if run.model.found_kind == "encoder" else length)
    compares = "weight" in run.method.trains and "measure" in through  # the probe keeps W as it was before training
    return {
        "weights": counted.frozen * _weight_bytes(run) + counted.frozen_added * 4,
        "trained": counted.trainable * TRAINED_BYTES,
        "pretrained copy": counted.target * 4 if compares else 0,
        "activations": width * counted.blocks * (34 * length * batch * counted.hidden_size + attention),
        "logits": logits * 4 * 2,  # and their gradient, in float32
        "process": 0 if on_gpu else PROCESS_BYTES,
        "totals": counted.statistics * 4,
    }


def peak_bytes(parts: dict[str, int]) -> int:
    """What has to fit where the model is."""
    return sum(size for part, size in parts.items() if part != "totals")


def _weight_bytes(run: Run) -> int:
    return 2 if run.model.dtype == "bfloat16" else 4


def compute_dtype(run: Run) -> str:
    """In which matrices are multiplied."""
    return "bfloat16" if run.model.dtype == "bfloat16" or run.train.precision == "bf16" else "float32"


def from_sizes(run: Run, speed: Callable[[str], float], on_gpu: bool) -> Estimate:
    """An estimate without records; of a model without a known configuration one that says so."""
    try:
        counted = sizes(run)
    except UnknownSizeError as error:
        return Estimate(None, None, f"size unknown: {error}")
    seconds = sum(seconds_by_phase(run, counted, speed(compute_dtype(run)), on_gpu).values())
    source = f"from sizes on this machine's {'GPU' if on_gpu else 'CPU'}"
    return Estimate(seconds, peak_bytes(bytes_by_part(run, counted, on_gpu)), source)


def comparable(run: Run, records: Sequence[Record], gpu: str | None, fingerprint: str) -> list[Record]:
    """Completed records of the same model and task on such a GPU, or on any CPU; of these the nearest.

    Nearest is of the same method on this very stack, then the same stack, then the same method.
    """
    wanted = run.identity
    found = [
        record
        for record in records
        if record.status == COMPLETED
        and record.identity["model"] == wanted["model"]
        and record.identity["task"]["name"] == run.task.name
        and record.config["task"]["max_length"] == run.task.max_length
        and record.environment["hardware"]["gpu"] == gpu
        and ("train" in record.phases) == run.trains
    ]

    def near(record: Record) -> tuple[bool, bool]:
        return record.environment["fingerprint"] == fingerprint, record.config["method"]["name"] == run.method_name

    best = max(map(near, found), default=None)
    return [record for record in found if near(record) == best]


def from_records(run: Run, records: Sequence[Record], fingerprint: str) -> Estimate | None:
    """Medians of comparable records, each scaled to this run's examples, probes and items; None without records.

    Memory is taken from records of the same method at no smaller a batch and rank, their highest; None otherwise.
    """
    if not records:
        return None
    seconds = median(sum(_scaled(run, record)) for record in records)
    peaks = [
        phase["peak_bytes"]
        for record in records
        if _needs_as_much(run, record)
        for phase in record.phases.values()
        if phase["peak_bytes"] is not None
    ]
    source = f"from {len(records)} record{'s' if len(records) > 1 else ''}"
    if records[0].environment["fingerprint"] != fingerprint:
        source += " of another stack"
    return Estimate(seconds, max(peaks, default=None), source)


def _scaled(run: Run, record: Record) -> Iterator[float]:
    then = record.config
    spent = {name: phase["seconds"] for name, phase in record.phases.items()}
    yield from (spent.get(name, 0.0) for name in ("load", "calibrate", "initialise"))
    if run.trains:
        examples = math.prod(then["train"][key] for key in _EXAMPLES)
        yield spent["train"] * math.prod(getattr(run.train, key) for key in _EXAMPLES) / examples
        interval = then["measure"]["alignment_steps"]
        if interval:
            probes = passes(run)["measure"].batches if run.measure.alignment_steps else 0
            yield spent.get("measure", 0.0) * probes / (1 + then["train"]["max_steps"] // interval)
    by_task = {score["task"]: score["num_examples"] for score in record.scores}
    items = sum(num_items(run, run.task.datasets[name]) for name in run.task.score)
    yield spent["score"] * items / max(1, sum(by_task.values()))


_EXAMPLES = ("max_steps", "batch_size", "gradient_accumulation_steps")


def _needs_as_much(run: Run, record: Record) -> bool:
    then = record.config
    return (
        then["method"]["name"] == run.method_name
        and then["train"]["batch_size"] >= run.train.batch_size
        and then["train"]["precision"] == run.train.precision
        and then["rank"]["r"] >= run.rank.r
        and bool(then["measure"]["alignment_steps"]) >= bool(run.measure.alignment_steps)
    )


def estimate(
    run: Run, records: Sequence[Record], speed: Callable[[str], float], gpu: str | None, fingerprint: str
) -> Estimate:
    """Seconds from records where there are comparable ones, else from sizes; the same for the memory.

    Args:
        speed: of a matrix product, by dtype; asked only where records do not suffice.
        gpu: its name; None without one.
    """
    near = comparable(run, records, gpu, fingerprint)
    recorded = from_records(run, near, fingerprint)
    if recorded is not None and recorded.peak_bytes is not None:
        return recorded
    counted = from_sizes(run, speed, gpu is not None)
    if recorded is None:
        return counted
    return Estimate(recorded.seconds, counted.peak_bytes, f"{recorded.source}, memory {counted.source}")


@functools.cache
def matmul_flops_per_second(dtype: str) -> float:
    """How fast this machine multiplies two square matrices: the best of several within about half a second."""
    import torch

    on_gpu = torch.cuda.is_available()
    device, size = ("cuda", 8192) if on_gpu else ("cpu", 1024)
    left = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
    best, until = math.inf, time.perf_counter() + 0.5
    while time.perf_counter() < until:
        began = time.perf_counter()
        product = left @ left
        product[0, 0].item()  # waits for the GPU
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
