"""Studies of any number of cells without a run: for what has to stay usable at ten thousand.

Each record is one of results/schemes, whose sizes are a run's of the demo, with another rank, learning rate, seed, loss
and score; its run_id is the one that `+experiments=schemes` gives that cell. Scores and outcomes agree.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.runs.record import (
    ALIGNMENT,
    ALL_LAYERS,
    CURVE,
    OUTCOMES,
    RECORD,
    SCHEMA_VERSION,
    WEIGHTS,
    read_rows,
)
from bench.runs.record import _checksum as content_checksum
from bench.study.plan_file import RUN, SELECT, PlannedRun, StudyPlan, write_plan

TEMPLATES = Path(__file__).parent.parent / "results" / "schemes"
METHODS = (
    "hu", "reversed", "orthogonal", "asymmetry_b", "asymmetry_a", "pissa", "milora", "olora", "mica", "corda", "eva",
    "lora_ga", "lora_ga_peft", "lora_one", "lora_xs", "lora_sb",
)  # fmt: skip
RANKS = (4, 8, 16, 32, 64)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
TUNED = "tuned"
VARIANTS = 4  # of which items are the right ones, at each score


@dataclass(frozen=True)
class Cell:
    """One run of a synthetic study."""

    stage: str
    method: str
    r: int
    rate: float
    seed: int
    task: str
    model: str

    @property
    def group(self) -> tuple[str, ...]:
        """The row of the study's table that the cell belongs to."""
        group = (f"task={self.task}", f"model={self.model}", f"method={self.method}", f"rank=r{self.r}")
        return (*group, f"train.learning_rate={self.rate:g}") if self.stage == RUN else group

    @property
    def overrides(self) -> tuple[str, ...]:
        """What makes the run."""
        chosen = [] if self.stage == RUN else [f"train.learning_rate={self.rate:g}"]
        split = ["score.split=validation"] if self.stage == SELECT else []
        return (*self.group, f"seed={self.seed}", *split, *chosen)


def make_study(
    folder: Path,
    num_cells: int = 10_000,
    *,
    staged: bool = False,
    tasks: Sequence[str] = ("gsm_tiny",),
    models: Sequence[str] = ("tiny_llama",),
    experiment: str | None = None,
    alignment: bool = True,
    outcomes: bool = True,
    weights: bool = True,
) -> list[Cell]:
    """Writes study.json and a completed run for each cell; returns the cells.

    10,000 are 16 methods, 5 ranks, 5 learning rates and 25 seeds; fewer have fewer seeds, then fewer methods.

    Args:
        folder: of the study, as results/STUDY.
        staged: a selection stage over the learning rates, and a tuned one, of a fifth of the runs, at one of them.
        tasks, models: further axes, by names alone: what they hold is the same.
        experiment: which study.json names.
        alignment, outcomes, weights: whether these files are written; of the weights, an empty file.
    """
    places = list(itertools.product(tasks, models, METHODS, RANKS))
    cells = list(itertools.islice((_staged if staged else _plain)(places, num_cells), num_cells))
    planned = []
    for cell in cells:
        run_id = write_run(folder, cell, alignment=alignment, outcomes=outcomes, weights=weights)
        planned.append(PlannedRun(cell.stage, cell.group, cell.overrides, run_id))
    write_plan(folder, StudyPlan(experiment, (SELECT, TUNED) if staged else (RUN,), tuple(planned)))
    return cells


Place = tuple[str, str, str, int]  # task, model, method, r


def _plain(places: Sequence[Place], num_cells: int) -> Iterator[Cell]:
    num_seeds = math.ceil(num_cells / (len(places) * len(RATES)))
    for seed, (task, model, method, r), rate in itertools.product(range(num_seeds), places, RATES):
        yield Cell(RUN, method, r, rate, seed, task, model)


def _staged(places: Sequence[Place], num_cells: int) -> Iterator[Cell]:
    """Of each row one seed of the selection at all rates, and one of the tuned runs, for each 6 cells that it gets."""
    places = places[: max(1, num_cells // (len(RATES) + 1))]
    share = math.ceil(num_cells / len(places))
    selected = max(1, share * 4 // 5 // len(RATES))
    for seed, (task, model, method, r), rate in itertools.product(range(selected), places, RATES):
        yield Cell(SELECT, method, r, rate, 100 + seed, task, model)
    for seed, (task, model, method, r) in itertools.product(range(share - selected * len(RATES)), places):
        yield Cell(TUNED, method, r, _best(method), seed, task, model)


def write_run(folder: Path, cell: Cell, *, alignment: bool, outcomes: bool, weights: bool) -> str:
    """Writes one run of a study's folder; returns its run_id."""
    identity = _contents(_without_seed(cell))[1] | {"seed": cell.seed}
    name = "-".join([cell.method, f"r{cell.r}", cell.task, cell.model, f"s{cell.seed}"])
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    run_id = f"{name}-{digest}"
    path = folder / run_id
    path.mkdir(parents=True)
    template = _template(cell.method)
    draw = random.Random(run_id)
    num_items = len(template.items)
    right = round(num_items * _accuracy(cell, draw))
    value = right / num_items
    factor = 1.5 - value  # of the losses
    known = {
        "run_id": run_id, "seed": cell.seed, "value": value, "factor": factor,
        "stderr": math.sqrt(value * (1 - value) / (num_items - 1)), "seconds": draw.uniform(7, 9),
    }  # fmt: skip
    (path / CURVE).write_text(template.curve % tuple(loss * factor for loss in template.losses), encoding="utf-8")
    if alignment:
        (path / ALIGNMENT).write_text(template.alignment % tuple(v * value for v in template.aligned), encoding="utf-8")
    if outcomes:
        (path / OUTCOMES).write_bytes(_outcomes(right, draw.randrange(VARIANTS)))
    if weights:
        (path / WEIGHTS).touch()
    known["command"] = " ".join(["python", "-m", "bench.run", *cell.overrides])
    known["files"] = {file.name: _described(file) for file in sorted(path.iterdir())}
    content = json.loads(_filled(_contents(_without_seed(cell))[0], known))
    content["checksum"] = content_checksum(content)
    (path / RECORD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")  # as write_record, but for fsync
    return run_id


def _described(file: Path) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}


def _accuracy(cell: Cell, draw: random.Random) -> float:
    """Best near the method's own learning rate, somewhat better at higher ranks, with a seed's noise."""
    off = math.log10(cell.rate / _best(cell.method))
    mean = 0.55 + 0.02 * METHODS.index(cell.method) % 0.2 + 0.03 * math.log2(cell.r / 8) - 0.1 * off**2
    return min(1.0, max(0.0, draw.gauss(mean, 0.03)))


def _best(method: str) -> float:
    return RATES[METHODS.index(method) % 3 + 1]


def _without_seed(cell: Cell) -> tuple[Any, ...]:
    return (cell.stage, cell.method, cell.r, cell.rate, cell.task, cell.model)


@functools.cache
def _contents(key: tuple[Any, ...]) -> tuple[str, dict[str, Any]]:
    """record.json of all seeds of a cell, with marks at what differs between them, and their identity."""
    stage, method, r, rate, task, model = key
    record: dict[str, Any] = json.loads(_template(method).record)
    config, identity = record["config"], record["identity"]
    split = "validation" if stage == SELECT else "test"
    config["score"]["split"] = identity["score"]["split"] = split
    config["rank"] = {"name": f"r{r}", "r": r, "lora_alpha": 2.0 * r}
    identity["rank"] = {"r": r, "lora_alpha": 2.0 * r}
    config["train"]["learning_rate"] = identity["train"]["learning_rate"] = rate
    config["task"]["name"] = identity["task"]["name"] = record["data"]["name"] = task
    config["model"]["name"] = record["model"]["name"] = model
    if model != "tiny_llama":
        identity["model"]["content"] = hashlib.sha256(model.encode()).hexdigest()
    identity.pop("seed")
    plain = json.loads(json.dumps(identity))
    record["run_id"], config["seed"], identity["seed"] = "<run_id>", "<seed>", "<seed>"
    (score,) = record["scores"]
    score |= {"value": "<value>", "stderr": "<stderr>"}
    record["training"]["eval_loss"] = "<factor>"
    record["phases"]["train"]["seconds"] = "<seconds>"
    for layer in record["initialization"]["layers"]:
        layer["r"] = r
    record |= {"schema_version": SCHEMA_VERSION, "command": "<command>", "attempts": [], "files": "<files>"}
    return json.dumps(record), plain


def _filled(text: str, known: dict[str, Any]) -> str:
    for name, value in known.items():
        text = text.replace(f'"<{name}>"', json.dumps(value))
    return text


@dataclass(frozen=True)
class _Template:
    """A run of results/schemes: its rows with %s in place of each number in `losses` and `aligned`."""

    record: str
    curve: str
    losses: tuple[float, ...]
    alignment: str
    aligned: tuple[float, ...]
    items: tuple[dict[str, Any], ...]


@functools.cache
def _template(method: str) -> _Template:
    (folder,) = TEMPLATES.glob(f"{method}-r8-*-s0-*")
    curve, losses = _marked(read_rows(folder / CURVE), ("loss", "eval_loss"), lambda row: True)
    rows = read_rows(folder / ALIGNMENT)
    alignment, aligned = _marked(rows, ("value",), lambda row: row["layer"] == ALL_LAYERS)
    items = tuple(read_rows(folder / OUTCOMES))
    return _Template((folder / RECORD).read_text(), curve, losses, alignment, aligned, items)


def _marked(rows: list[dict[str, Any]], keys: tuple[str, ...], which: Any) -> tuple[str, tuple[float, ...]]:
    lines, numbers = [], []
    for row in rows:
        marked = dict(row)
        for key in keys:
            if which(row) and row.get(key) is not None:
                numbers.append(row[key])
                marked[key] = "<%s>"
        lines.append(json.dumps(marked).replace("%", "%%").replace('"<%%s>"', "%s") + "\n")
    return "".join(lines), tuple(numbers)


@functools.cache
def _outcomes(right: int, variant: int) -> bytes:
    """So many right answers to the demo's items."""
    items = _template("hu").items
    answered = set(random.Random(f"{right} {variant}").sample(range(len(items)), right))
    rows = [
        item | {"metrics": dict.fromkeys(item["metrics"], 1.0 if place in answered else 0.0)}
        for place, item in enumerate(items)
    ]
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), compresslevel=6, mtime=0)
