"""The lines of text under a table: what its numbers are, and which differences are significant."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from bench.report.judge.comparisons import Comparison, Judged, detectable
from bench.report.judge.learning import failures_of
from bench.report.judge.scores import Column, Found, Scores
from bench.report.judge.significance import ALPHA
from bench.report.read.load import BASELINE, Cell
from bench.report.tables.render import DAGGER, MINUS, interval_text, p_text
from bench.runs.record import Record
from bench.study.plan_file import SEEDS, StudyPlan

_SOFTWARE = ("torch", "transformers", "peft", "lm-eval")
_SAID = 8  # comparisons that are named in a line under a table

_INTERVAL = "Mean [95 % interval] over seeds and test items (of one seed over items only)."
_BOLD = "if significantly better than the runner-up over seeds and items (Holm-corrected p < 0.05, comparisons.md)."
DUNNETT = (
    "p seeds: {test}. p, Holm: the larger of p over seeds and p over items, corrected for the number of rows; it "
    "decides. p seeds, Dunnett: over seeds, all trained methods of a column against LoRA at once; it assumes equal "
    "variances over seeds, and takes the items and the learning rates as given."
)
_SECONDS = "Init: calibration and factorisation, train: the training loop, in seconds, means over seeds."
_HEAD = "Head: parameters of the classification head, which every method trains and trainable does not count."


def note(columns: Sequence[Column], any_head: bool) -> str:
    """The note that explains the columns of all tables.

    Args:
        columns: those that are shown.
        any_head: whether a table has the column "head".
    """
    lower = dict.fromkeys(column.metric.replace("_", " ") for column in columns if not column.higher_is_better)
    best = "highest" if not lower else "lowest"
    if lower and any(column.higher_is_better for column in columns):
        best = f"best (of {', '.join(lower)} the lowest, else the highest)"
    bold = f"Bold: the {best} mean, {_BOLD}"
    return " ".join((_INTERVAL, bold, _SECONDS, *([_HEAD] if any_head else [])))


def remarks(judged: Judged) -> list[str]:
    """The lines that apply to one table."""
    cells, scores, shown = judged.cells, judged.scores, judged.columns
    found = [
        (cell, column, reached[column])
        for cell, reached in zip(cells, scores.found, strict=True)
        for column in shown
        if column in reached
    ]
    lines = []
    if len(shown) < len(scores.columns):
        lines.append(f"The first metric of each task; all {len(scores.columns)} metrics are in results.csv.")
    if averaged := scores.averaged:
        whole = len(averaged) == len(scores.first_metrics)
        which = "each task" if whole else ", ".join(str(column.dataset) for column in averaged)
        lines.append(
            f"Average: mean of the first metric of {which}. IQM: interquartile mean over tasks and seeds, with Yuen's "
            "interval from five seeds on."
        )
    if limited := _limited(cells, shown):
        lines.append(f"Scored are the first {limited} (score.limit).")
    if any(column.dataset is None for column in shown):
        lines.append("Eval loss in nats.")
    if any(run.forgetting is not None for cell in cells for run in cell.runs):
        lines.append(
            "Forgetting: by how much training raised the loss on held-out text of the pretraining kind, nats a token, "
            "over seeds."
        )
    if any(flagged(cell, one.above_majority) for cell, _, one in found):
        lines.append(f"{DAGGER}: trained, but the 95 % interval is not wholly above the majority class.")
    if single := {id(cell): cell.title for cell, _, one in found if cell.trained and one.estimate.over == "items"}:
        everyone = len(single) == sum(cell.trained for cell in cells) > 1
        named = "every method" if everyone else ", ".join(single.values())
        lines.append(f"One seed: interval over items only ({named}).")
    lines += [_compared(judged), _detectable(judged), _collapsed(found, shown), *_data(cells, scores)]
    return [line for line in lines if line]


def failures(failed: Sequence[Record]) -> str:
    """How many runs of each method failed; "" for none."""
    counts = Counter(run.label for run in sorted(failed, key=lambda run: run.run_id))
    return f"Failed runs, not counted: {', '.join(f'{label} {n}' for label, n in counts.items())}." if counts else ""


def unfinished(plan: StudyPlan | None, recorded: Collection[str]) -> str:
    """How many planned runs have no record yet; "" where none is missing."""
    planned = {run.run_id for run in plan.runs if run.run_id} if plan else set()
    waiting = sum(run.run_id is None and run.refused is None for run in plan.runs) if plan else 0
    missing = len(planned.difference(recorded))
    said = [f"{missing:,} of {len(planned):,} planned runs have no record"] if missing else []
    said += [f"the learning rate of {waiting:,} more is not chosen yet"] if waiting else []
    return f"Unfinished study: {', and '.join(said)}." if said else ""


def stack(records: Iterable[Record]) -> str:
    """Software and hardware of the records, as one line; several stacks if they were mixed."""
    named = set()
    for environment in (record.environment for record in records if record.environment.versions):
        versions, hardware = environment.versions, environment.hardware
        software = ", ".join(f"{name} {versions[name]}" for name in _SOFTWARE if versions.get(name))
        threads = f"{hardware.num_threads} thread{'s' * (hardware.num_threads != 1)}"
        named.add(f"{software} on {hardware.gpu or hardware.cpu}, {threads}")
    return f"Made with {'; and with '.join(sorted(named))}." if named else ""


def flagged(cell: Cell, above_majority: bool | None) -> bool:
    """Whether a number gets the dagger: of a trained method, and not better than the majority class."""
    return cell.trained and above_majority is False


def majority_texts(scores: Scores, columns: Sequence[Column]) -> list[str | None]:
    """The majority-class baseline of each column; None for a metric without one."""
    texts = []
    for column in columns:
        values = dict.fromkeys(
            column.scale.text(found[column].majority)  # type: ignore[arg-type]
            for found in scores.found
            if column in found and found[column].majority is not None
        )
        texts.append(" or ".join(values) or None)
    return texts


def _compared(judged: Judged) -> str:
    """The significant comparisons of the family; where none is, the one with the smallest p."""
    family = [one for one in judged.comparisons if one.in_family and one.p_holm is not None]
    if not family:
        return ""
    against = [judged.cells[one.second] for one in family]
    baseline = next(
        (f"{cell.label} and the best with the runner-up" for cell in against if cell.method == BASELINE), "the best"
    )
    significant = [one for one in family if one.is_significant]
    said = [_said(judged, one) for one in significant[:_SAID]]
    if len(significant) > _SAID:
        said.append(f"and {len(significant) - _SAID} more")
    number = "comparison is" if len(family) == 1 else "comparisons are"
    text = f"{len(significant) or 'none'} of {len(family)} {number} significant after Holm's correction"
    if not significant:
        said = [f"smallest p: {_said(judged, min(family, key=lambda one: (one.p_holm, one.p, one.first)))}"]
    text += f"{': ' if significant else '; '}{'; '.join(said)}."
    return f"Compared {_pairing(judged)}, with {baseline}: {text}"


def _pairing(judged: Judged) -> str:
    return (
        "over seeds (paired, Student's t) and items" if judged.pairing == SEEDS else "over seeds (Welch's t) and items"
    )


def comparison_note(judged: Judged) -> str:
    """What the p-values of the comparisons are; "" where there is none."""
    test = "Student's paired t" if judged.pairing == SEEDS else "Welch's t"
    return DUNNETT.format(test=test) if any(one.in_family for one in judged.comparisons) else ""


def _said(judged: Judged, one: Comparison) -> str:
    cells, scale = judged.cells, one.measured.of_differences
    between = f"{cells[one.first].title} {MINUS} {cells[one.second].title}"
    where = f" in {one.measured.heading}" if len(judged.measured) > 1 else ""
    return f"{between}{where} {interval_text(one.difference, scale)}, p {p_text(one.p_holm)}".replace("p <", "p < ")


def _detectable(judged: Judged) -> str:
    found: dict[int, list[str]] = {}
    for column in judged.measured:
        result = detectable(judged, column)
        if result is not None and math.isfinite(result[0]):
            name = column.heading.removesuffix(f" {column.scale.unit}")
            unit = " points" if column.scale.unit == "%" else ""
            possible = result[0] <= column.of_differences.high
            size = f"{column.scale.text(result[0])}{unit}" if possible else "more than there can be"
            found.setdefault(result[1], []).append(f"{name} {size}")
    hypotheses = round(ALPHA / judged.smallest_alpha)
    level = "two-sided α = 0.05" + (f"/{hypotheses}, the first step of Holm's correction" if hypotheses > 1 else "")
    return " ".join(
        f"Minimum detectable effect, the difference of two methods that this comparison finds with probability 0.8 "
        f"({level}, n = {n} {'seed, over items' if n == 1 else 'seeds'}): {', '.join(texts)}."
        for n, texts in found.items()
    )


def _collapsed(found: Sequence[tuple[Cell, Column, Found]], shown: Sequence[Column]) -> str:
    """The rate of failure of each cell whose runs are partly collapsed."""
    said = []
    for cell, column, one in found:
        failed = failures_of(cell, column, one)
        if failed is None:
            continue
        where = f" in {column.dataset}" if len(shown) > 1 else ""
        said.append(
            f"{cell.title}{where} {failed.num_collapsed} of {failed.n} ({failed.num_collapsed / failed.n:.0%} "
            f"[{failed.low:.0%}, {failed.high:.0%}]), mean of the others {column.scale.text(failed.mean_of_others)}"
        )
    if not said:
        return ""
    return (
        "Collapsed runs (no score two standard errors above chance, or a training loss that rose), beside runs that "
        f"trained, with Wilson's interval of their share: {'; '.join(said)}."
    )


def _data(cells: Sequence[Cell], scores: Scores) -> list[str]:
    """Lines on incomplete data, contamination, truncation and merging; empty strings for what did not happen."""

    def by_dataset(counts: Callable[[Record], Mapping[str, int]]) -> str:
        datasets = dict.fromkeys(str(column.dataset) for column in scores.columns)
        texts = {name: _by_method(cells, lambda run: counts(run).get(name)) for name in datasets}  # noqa: B023
        return ", ".join(f"{name} {text}" for name, text in texts.items() if text)

    trained = [cell for cell in cells if cell.trained]
    incomplete = dict.fromkeys(text for cell in cells for run in cell.runs for text in run.data.incomplete)
    merged, rose = [], []
    for cell in cells:
        if risen := sum(run.training is not None and run.training.loss_rose is True for run in cell.runs):
            rose.append(f"{cell.title} {risen:,} of {len(cell.runs):,}")
        items = [run.scoring.merged for run in cell.runs if run.scoring.merged]
        if differing := sum(one["num_differing"] for one in items):
            merged.append(f"{cell.title} {differing:,} of {sum(one['num_items'] for one in items):,}")
    told = {
        "Left out by adapters, weights that are in no linear layer, in % of the parameters": _by_method(
            cells, _left_out
        ),
        "Incomplete data": ", ".join(incomplete),
        "Contaminated, scored items that occur in the training set": by_dataset(lambda run: run.data.contaminated),
        "Truncated, scored items longer than the model takes": by_dataset(lambda run: run.scoring.truncated),
        "Training examples left out as too long": _by_method(trained, lambda run: run.data.num_dropped),
        "Validation examples left out as too long": _by_method(trained, lambda run: run.data.num_validation_dropped),
        "Training examples cut to the limit": _by_method(trained, lambda run: run.data.num_truncated),
        "Runs whose training loss ended above where it began": ", ".join(rose),
        "Scored items that change with the adapter merged into the weights": ", ".join(merged),
    }
    return [f"{what}: {text}." for what, text in told.items() if text]


def _limited(cells: Sequence[Cell], shown: Sequence[Column]) -> str:
    """How many items of each dataset were scored, where score.limit left some out."""
    found: dict[str, None] = {}
    for run in (run for cell in cells for run in cell.runs):
        limit, datasets = run.config.score.get("limit"), {column.dataset for column in shown}
        for score in run.scores if limit is not None else ():
            every = run.data.num_items.get(score.task)
            if score.task in datasets and score.num_examples == limit != every:
                found[f"{limit:,}{f' of {every:,}' if every else ''} items of {score.task}"] = None
    return ", ".join(found)


def _left_out(run: Record) -> int | None:
    """The share of the parameters, in percent, that the run's adapters cannot reach."""
    whole = run.model.num_parameters
    return round(100 * run.initialization.num_left_out / whole) if whole else None


def _by_method(cells: Sequence[Cell], count: Callable[[Record], int | None]) -> str:
    """The counts with the methods that have them, '12 (every method)' or '3 (LoRA), 4 (PiSSA)'; "" where all are 0.

    Args:
        count: of a run; None where it does not apply.
    """
    methods: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        counts = sorted({found for run in cell.runs if (found := count(run)) is not None})
        if counts:
            methods["–".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))].append(cell.title)
    if len(methods) == 1 and len(next(iter(methods.values()))) > 1:
        methods = {number: ["every method"] for number in methods}
    return ", ".join(f"{number} ({'; '.join(titles)})" for number, titles in methods.items() if number != "0")
