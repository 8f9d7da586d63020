"""What initialisation costs: gradients in seconds and memory, factors in seconds and accuracy, a cached start.

Peers: plain code that does no more than it must (floors.py), and PEFT and the authors' code (peers.py). Model: a Llama
of 98.6 M float32 parameters with random weights, one thread.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import factor_contenders
import gradient_contenders
from factor_contenders import FactorCost
from gradient_contenders import GradientCost
from process import Options, fresh, interleaved, say
from shape import LLAMA_98M
from table import Goal, Report, Row, median

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
SUMMARIES = {"median": statistics.median, "max": max}  # of the subspace errors of all layers

GradientCosts = Mapping[str, list[GradientCost]]
FactorCosts = Mapping[str, list[dict[int, FactorCost]]]


def run(options: Options) -> Report:
    """All contenders in turns."""
    num_samples, repetitions = options.samples or (64 if options.full else 16), options.repetitions or 3
    sizes = {"shape": LLAMA_98M, "num_samples": num_samples}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say("gradients and exact singular vectors for all")
        fresh(factor_contenders.store, **sizes, folder=folder, num_vectors=2 * max(RANKS))
        judged = {"reference": factor_contenders.reference(folder, "lora_ga"), "r": SKETCH_RANK}
        gradients: dict[str, Any] = {
            contender: functools.partial(fresh, gradient_contenders.measure, contender=contender, **sizes, **judged)
            for contender in gradient_contenders.CONTENDERS
        }
        gradients["ours cached"] = functools.partial(fresh, gradient_contenders.measure_cached, **sizes)
        gradient = interleaved(gradients, repetitions)
        given = {"shape": LLAMA_98M, "folder": folder, "ranks": RANKS}
        factors = {
            contender: functools.partial(fresh, factor_contenders.measure, contender=contender, **given)
            for contender in factor_contenders.CONTENDERS
        }
        factor = interleaved(factors, repetitions)
    cached = gradient.pop("ours cached")
    gradient |= {f"ours cached, {call}": [costs[call] for costs in cached] for call in ("filling", "served")}
    shapes = {"model": asdict(LLAMA_98M) | {"num_parameters": LLAMA_98M.num_parameters()}}
    rows = [*_gradient_rows(gradient), *_factor_rows(factor)]
    return Report(rows, shapes, repetitions, num_samples, _details(gradient, factor))


def _gradient_rows(costs: GradientCosts) -> list[Row]:
    seconds = {name: [cost.gradient_seconds for cost in values] for name, values in costs.items()}
    whole = {name: [cost.cost.seconds for cost in values] for name, values in costs.items()}
    memory = {name: _above_floor(costs, name) for name in costs}
    return [
        Row("exact gradient", "s", seconds["ours exact"], seconds["floor_gradient"], "floor_gradient", Goal(1.05)),
        Row("exact gradient, memory over activations", "MB", memory["ours exact"], memory["PEFT"], "PEFT", Goal(0.3)),
        Row("exact gradient, against PEFT", "s", seconds["ours exact"], seconds["PEFT"], "PEFT"),
        Row("sketched gradient", "s", seconds["ours sketch"], seconds["PEFT"], "PEFT", Goal(0.78)),
        *(
            Row(f"sketched gradient, largest sine, {which} of layers", "", [of(c.errors) for c in costs["ours sketch"]])
            for which, of in SUMMARIES.items()
        ),
        Row("gradient and SVD, cached", "s", whole["ours cached, served"], whole["ours exact"], "computed", Goal(0.02)),
    ]


def _above_floor(costs: GradientCosts, name: str) -> list[float]:
    """MB of extra peak memory above what forward and backward through activations take, by repetition."""
    pairs = zip(costs[name], costs["floor_activations"], strict=True)
    known = [(one.cost.extra_bytes, floor.cost.extra_bytes) for one, floor in pairs]
    return [(one - floor) / 1e6 for one, floor in known if one is not None and floor is not None]


def _factor_rows(costs: FactorCosts) -> list[Row]:
    rows = []
    for method, (label, peer_name) in LABELS.items():
        for r in RANKS:
            mine, theirs = ([cost[r] for cost in costs[f"{method} {who}"]] for who in ("ours", "peer"))
            goal, what = FACTOR_GOALS.get((method, r)), f"{label} factors, r = {r}"
            rows.append(Row(what, "s", [c.seconds for c in mine], [c.seconds for c in theirs], peer_name, goal))
            for which, of in SUMMARIES.items():
                sines = ([of(cost.errors) for cost in who] for who in (mine, theirs))
                rows.append(Row(f"{what}: subspace error, {which} of layers", "", *sines, peer_name, Goal(1.0)))
    return rows


def _details(gradient: GradientCosts, factor: FactorCosts) -> dict[str, Any]:
    filling = gradient["ours cached, filling"]  # calibrating for LoRA-GA into an empty cache
    parts = {label: median([cost.parts.get(part, 0.0) for cost in filling]) or 0.0 for part, label in PARTS.items()}
    return {
        "where the time goes": {
            label: {"seconds": seconds, "share": seconds / sum(parts.values())} for label, seconds in parts.items()
        },
        "gradients": {name: [asdict(cost) for cost in costs] for name, costs in gradient.items()},
        "factors": {
            name: [{str(r): cost.seconds for r, cost in costs.items()} for costs in repetitions]
            for name, repetitions in factor.items()
        },
        "subspace error": "sine of the largest principal angle to LAPACK's singular vectors, the worse side of a layer",
    }
