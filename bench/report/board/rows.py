"""The results of all studies in a results folder: a column a study, task, model and budget; a row a method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import pandas as pd

from bench.report.judge.comparisons import Judged, Measured, estimates, judge
from bench.report.judge.ranks import Place, trained_places
from bench.report.palette import order
from bench.report.read.load import RATE, Cell, ReportError, Study, load_study, natural
from bench.report.tables.render import DASH, interval_text
from bench.report.tables.tables import forgetting, trainable_parameters
from bench.runs.record import CHECKSUMMED, differing_files, identity_digest
from bench.study.plan_file import SEARCH, SELECT, every_run_folder

COMMUNITY = "community/"
Key = tuple[str, int | None, str]  # method, r, variant
TIERS = {
    "embedded": "embedded",
    "package": "pretrained, from PyPI",
    "hub": "pretrained, from the Hub",
}  # of model.source


@dataclass(frozen=True)
class Entry:
    """A method's result in one column.

    Attributes:
        r: of the adapters; None for a method that has none.
        variant: further settings of the method in which the study's rows differ.
        place: the best and the worst place that significant differences leave it; None for an untrained model.
        mean, low, high: in the unit that is printed; `text` has them.
        forgetting: the rise of the loss on text of the pretraining kind, nats a token; None where it is not known.
    """

    method: str
    label: str
    r: int | None
    variant: str
    place: Place | None
    mean: float
    low: float | None
    high: float | None
    text: str
    n: int
    trainable: int
    init_seconds: float
    forgetting: float | None
    forgetting_low: float | None
    forgetting_high: float | None

    @property
    def key(self) -> Key:
        """What the entries of one row of the board have in common."""
        return self.method, self.r, self.variant

    @property
    def place_text(self) -> str:
        """'2', '1–3' or a dash."""
        if self.place is None:
            return DASH
        best, worst = self.place
        return str(best) if best == worst else f"{best}–{worst}"


@dataclass(frozen=True)
class Column:
    """One metric of one study, task, model and budget; only its entries are compared with each other.

    Attributes:
        setting: in what else the study's columns differ, such as max_steps 50.
        metric: with its unit.
        verified: whether it is a study of others whose files all have their checksums.
        entries: in the methods' order.
    """

    study: str
    task: str
    model: str
    tier: str
    setting: str
    metric: str
    higher_is_better: bool
    verified: bool
    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        """Names the column in a list."""
        return ", ".join(part for part in (self.study, self.task, self.model, self.setting, self.metric) if part)


@dataclass(frozen=True)
class Board:
    """All columns, and the studies that are not on the board with the reason."""

    columns: tuple[Column, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def titles(self) -> dict[Key, str]:
        """The title of each row in the methods' order: the label, with r where the board has the method at several."""
        keys = {entry.key: entry for column in self.columns for entry in column.entries}
        several = {method for method, *_ in keys if len({r for other, r, _ in keys if other == method}) > 1}
        titles = {}
        for method, r, variant in sorted(keys, key=lambda key: (order(key[0]), key[1] or 0, natural(key[2]))):
            shown = f"r\u00a0{r}" if method in several and r else ""
            parts = (keys[method, r, variant].label, shown, variant)
            titles[method, r, variant] = ", ".join(part for part in parts if part)
        return titles

    def frame(self) -> pd.DataFrame:
        """One row an entry, numbers in the unit that is printed."""
        return pd.DataFrame(
            {
                "study": column.study,
                "task": column.task,
                "model": column.model,
                "tier": column.tier,
                "setting": column.setting or None,
                "metric": column.metric,
                "higher_is_better": column.higher_is_better,
                "verified": column.verified,
                "method": one.method,
                "label": one.label,
                "r": one.r,
                "variant": one.variant or None,
                "best_place": one.place and one.place[0],
                "worst_place": one.place and one.place[1],
                "mean": one.mean,
                "low": one.low,
                "high": one.high,
                "n": one.n,
                "trainable": one.trainable,
                "init_seconds": one.init_seconds,
                "forgetting": one.forgetting,
            }
            for column in self.columns
            for one in column.entries
        ).astype({"r": "Int64", "best_place": "Int64", "worst_place": "Int64"})


def read_board(*results_dirs: Path) -> Board:
    """Reads every study of some results folders at its main stage; one that several have is named by its folder.

    A study is left out whose runs only choose a learning rate, or that its own report refuses; one of others
    (community/) also where a file of a run is not what was written.

    Raises:
        ReportError: there is no study that can be shown.
    """
    folders = [
        (root, run.parent.relative_to(root).as_posix()) for root in results_dirs for run in every_run_folder(root)
    ]
    places = sorted(dict.fromkeys(folders), key=lambda place: place[1])
    counts = Counter(name for _, name in places)
    columns: list[Column] = []
    left_out = []
    for root, name in places:
        shown = name if counts[name] == 1 else (root / name).as_posix()
        try:
            columns += [replace(column, study=shown) for column in _columns(_shown(load_study(root, name)))]
        except ReportError as error:
            left_out.append((shown, str(error)))
    if not columns:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out)
        raise ReportError(
            f"no study in {' or '.join(map(str, results_dirs))} can be shown{': ' + reasons if reasons else ''}"
        )
    columns.sort(key=lambda column: (column.task, column.model))  # of a task and model by study
    return Board(tuple(columns), tuple(left_out))


def _shown(study: Study) -> Study:
    """The study; ReportError where it is no result, or not as it was written."""
    if study.stage in (SEARCH, SELECT):
        raise ReportError("its runs choose learning rates on the validation split; none is scored on test")
    if study.name.startswith(COMMUNITY) and (wrong := [*study.unreadable, *_changed(study)]):
        raise ReportError(f"{len(wrong)} runs are not as they were written; the first: {wrong[0]}")
    return study


def _changed(study: Study) -> Iterator[str]:
    """The runs of which a file is not what its record describes, or whose id is not that of its settings."""
    for path, record in study.members:
        if record.schema_version < CHECKSUMMED:
            yield f"{path.name}: a record of schema {record.schema_version} has no checksums"
        elif path.name != record.run_id or not record.run_id.endswith(f"-{identity_digest(record.identity)}"):
            yield f"{path.name}: the record is of another run"
        elif files := differing_files(path, record):
            yield f"{path.name}: {files[0]} is missing, or not what was written"


def _columns(study: Study) -> Iterator[Column]:
    for (task, model), part in study.by_task_and_model.items():
        judged = judge(part.cells, study.pairing)
        averages = [one for one in judged.measured if one.column is None]
        firsts = [one for one in judged.measured if one.column in judged.scores.first_metrics]
        for setting in dict.fromkeys(_setting(cell) for cell in part.cells if cell.trained):
            there = [i for i, cell in enumerate(part.cells) if not cell.trained or _setting(cell) == setting]
            for measured in averages or firsts:
                entries = tuple(_entries(judged, measured, there))
                about = study.name, task, model, _tier(part.cells[there[0]]), setting, measured.heading
                yield Column(*about, measured.higher_is_better, study.name.startswith(COMMUNITY), entries)


def _setting(cell: Cell) -> str:
    """The axes that are no property of the method."""
    of_row = ("method.", "rank.", RATE)
    shown = {axis: value for axis, value in cell.axes.items() if value is not None and not axis.startswith(of_row)}
    return ", ".join(f"{axis.rpartition('.')[2]} {value}" for axis, value in shown.items())


def _entries(judged: Judged, measured: Measured, there: Sequence[int]) -> Iterator[Entry]:
    """The results of some rows of a table, ranked among themselves."""
    placed, reached = trained_places(judged, measured, there), estimates(judged, measured)
    for place in there:
        cell, found = judged.cells[place], reached[place]
        if found is None:
            continue
        factor, forgot = measured.scale.factor, forgetting(cell)
        low, high = (None if end is None else factor * end for end in (found.low, found.high))
        variant = [
            f"{axis.rpartition('.')[2]} {value}" for axis, value in cell.axes.items() if axis.startswith("method.")
        ]
        yield Entry(
            cell.method, cell.label, cell.runs[0].config.rank.r if "rank" in cell.runs[0].identity else None,
            ", ".join(text for text in variant if not text.endswith(" None")), placed.get(place),
            factor * found.mean, low, high, interval_text(found, measured.scale), found.n,
            trainable_parameters(cell), mean(run.init_seconds for run in cell.runs),
            forgot.mean if forgot else None, forgot.low if forgot else None, forgot.high if forgot else None,
        )  # fmt: skip


def _tier(cell: Cell) -> str:
    return TIERS.get(str(cell.runs[0].config.model.source), "local")
