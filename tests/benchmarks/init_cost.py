"""What initialisation costs: gradients in seconds and memory, factors in seconds and accuracy, a cached start.

Peers: plain code that does no more than it must (floors.py), and PEFT and the authors' code (peers.py). Model: a Llama
of 98.6 M float32 parameters with random weights, one thread.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import factor_contenders
import gradient_contenders
from accuracy import summary
from factor_contenders import FactorCost
from gradient_contenders import GradientCost
from process import NUM_THREADS, fresh
from repeat import Options, interleaved, say
from shape import LLAMA_98M, Shape
from table import Goal, Report, Row, median

NAME = "init_cost"
RANKS = (8, 64)
SKETCH_RANK = 8  # of the LoRA-GA whose factors the sketch is judged by
FACTOR_GOALS = {
    ("lora_ga", 8): Goal(1.0),
    ("lora_ga", 64): Goal(0.4),
    ("lora_sb", 8): Goal(0.5),
    ("lora_xs", 8): Goal(0.5),
    ("lora_xs", 64): Goal(0.5),
}
LABELS = {
    "lora_ga": ("LoRA-GA", "PEFT"),
    "lora_sb": ("LoRA-SB", "svd_lowrank"),
    "lora_xs": ("LoRA-XS", "TruncatedSVD"),
}
PARTS = {
    "forward": "forward",
    "backward": "backward without gradients",
    "gradient": "forming gradients",
    "storage": "keeping totals between batches",
    "svd": "SVD",
    "cache": "writing to the cache",
}

GradientCosts = Mapping[str, list[GradientCost]]
FactorCosts = Mapping[str, list[dict[int, FactorCost]]]


def run(options: Options, shape: Shape = LLAMA_98M, ranks: tuple[int, ...] = RANKS) -> Report:
    """All contenders in turns.

    Args:
        shape: of the model; another one to try the benchmark itself.
        ranks: of the factor contenders.
    """
    num_samples, repetitions = options.samples or (64 if options.full else 16), options.repetitions or 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"{NAME}: gradients and exact singular vectors for all")
        fresh(factor_contenders.store, shape=shape, num_samples=num_samples, folder=folder, num_vectors=2 * max(ranks))
        gradient = interleaved(NAME, _gradient_contenders(shape, num_samples, folder), repetitions)
        factor = interleaved(NAME, _factor_contenders(shape, folder, ranks), repetitions)
    cached = gradient.pop("ours cached")
    gradient |= {f"ours cached, {call}": [calls[call] for calls in cached] for call in ("filling", "served")}
    return Report(
        name=NAME,
        rows=[*_gradient_rows(gradient), *_factor_rows(factor, ranks)],
        shapes={"model": asdict(shape) | {"num_parameters": shape.num_parameters()}},
        samples=num_samples,
        num_threads=NUM_THREADS,
        repetitions=repetitions,
        full=options.full,
        details=_details(gradient, factor),
    )


def _gradient_contenders(shape: Shape, num_samples: int, folder: Path) -> dict[str, Callable[[], Any]]:
    functions = {
        "floor_activations": gradient_contenders.floor_activations,
        "floor_gradient": gradient_contenders.floor_gradient,
        "PEFT": gradient_contenders.peft,
        "ours exact": gradient_contenders.ours_exact,
        "ours sketch": gradient_contenders.ours_sketch,
        "ours cached": gradient_contenders.ours_cached,
    }
    calls = {
        name: functools.partial(fresh, function, shape=shape, num_samples=num_samples)
        for name, function in functions.items()
    }
    exact = factor_contenders.reference(folder, "lora_ga")
    return calls | {"ours sketch": functools.partial(calls["ours sketch"], reference=exact, r=SKETCH_RANK)}


def _factor_contenders(shape: Shape, folder: Path, ranks: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    functions = {
        "lora_ga peer": factor_contenders.lora_ga_peft,
        "lora_ga ours": factor_contenders.lora_ga_ours,
        "lora_sb peer": factor_contenders.lora_sb_peer,
        "lora_sb ours": factor_contenders.lora_sb_ours,
        "lora_xs peer": factor_contenders.lora_xs_peer,
        "lora_xs ours": factor_contenders.lora_xs_ours,
    }
    return {
        name: functools.partial(fresh, function, shape=shape, folder=folder, ranks=ranks)
        for name, function in functions.items()
    }


def _gradient_rows(costs: GradientCosts) -> list[Row]:
    seconds = {name: [cost.gradient_seconds for cost in values] for name, values in costs.items()}
    whole = {name: [cost.cost.seconds for cost in values] for name, values in costs.items()}
    memory = {name: _above_floor(costs, name) for name in costs}
    angles = [summary(cost.errors) for cost in costs["ours sketch"]]
    return [
        Row("exact gradient", "s", seconds["ours exact"], seconds["floor_gradient"], "floor_gradient", Goal(1.05)),
        Row("exact gradient, memory over activations", "MB", memory["ours exact"], memory["PEFT"], "PEFT", Goal(0.3)),
        Row("exact gradient, against PEFT", "s", seconds["ours exact"], seconds["PEFT"], "PEFT"),
        Row("sketched gradient", "s", seconds["ours sketch"], seconds["PEFT"], "PEFT", Goal(0.78)),
        *(
            Row(f"sketched gradient, largest sine, {which} of layers", "", [angle[which] for angle in angles])
            for which in ("median", "max")
        ),
        Row("gradient and SVD, cached", "s", whole["ours cached, served"], whole["ours exact"], "computed", Goal(0.02)),
    ]


def _above_floor(costs: GradientCosts, name: str) -> list[float]:
    """MB of extra peak memory above what forward and backward through activations take, by repetition."""
    pairs = zip(costs[name], costs["floor_activations"], strict=True)
    known = [(one.cost.extra_bytes, floor.cost.extra_bytes) for one, floor in pairs]
    return [(one - floor) / 1e6 for one, floor in known if one is not None and floor is not None]


def _factor_rows(costs: FactorCosts, ranks: tuple[int, ...]) -> list[Row]:
    rows = []
    for method, (label, peer_name) in LABELS.items():
        for r in ranks:
            mine, theirs = ([cost[r] for cost in costs[f"{method} {who}"]] for who in ("ours", "peer"))
            goal, what = FACTOR_GOALS.get((method, r)), f"{label} factors, r = {r}"
            rows.append(Row(what, "s", [c.seconds for c in mine], [c.seconds for c in theirs], peer_name, goal))
            for which in ("median", "max"):
                sines = ([summary(cost.errors)[which] for cost in who] for who in (mine, theirs))
                rows.append(Row(f"{what}: subspace error, {which} of layers", "", *sines, peer_name, Goal(1.0)))
    return rows


def _details(gradient: GradientCosts, factor: FactorCosts) -> dict[str, Any]:
    return {
        "where the time goes": breakdown(gradient["ours cached, filling"]),
        "gradients": {name: [asdict(cost) for cost in costs] for name, costs in gradient.items()},
        "factors": {
            name: [{str(r): cost.seconds for r, cost in costs.items()} for costs in repetitions]
            for name, repetitions in factor.items()
        },
        "subspace error": "sine of the largest principal angle to LAPACK's singular vectors, the worse side of a layer",
    }


def breakdown(costs: list[GradientCost]) -> dict[str, dict[str, float]]:
    """Seconds and shares of calibrating for LoRA-GA into an empty cache: medians of each part."""
    parts = {label: median([cost.parts.get(part, 0.0) for cost in costs]) or 0.0 for part, label in PARTS.items()}
    whole = sum(parts.values())
    return {label: {"seconds": seconds, "share": seconds / whole} for label, seconds in parts.items()}
