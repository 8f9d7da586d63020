"""Rows of ours against a peer, each beside its goal: as a printed table and as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from process import NUM_THREADS


@dataclass(frozen=True)
class Goal:
    """A bound on the ratio ours / peer, or, where `absolute`, on ours itself in the row's unit."""

    limit: float
    at_least: bool = False
    absolute: bool = False

    def met(self, value: float) -> bool:
        """Whether the value keeps to the bound."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """One comparison: the values of all repetitions, whose medians are compared; none where none could be had.

    Attributes:
        floor: seconds of the matrix products that nobody can do without, where they were timed.
    """

    what: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float] = ()
    peer_name: str = ""
    goal: Goal | None = None
    floor: float | None = None

    @property
    def ratio(self) -> float | None:
        """Median of ours over median of the peer's."""
        ours, peer = median(self.ours), median(self.peer)
        return None if ours is None or not peer else ours / peer

    @property
    def judged(self) -> float | None:
        """The number that the goal bounds; None without a goal."""
        if self.goal is None:
            return None
        return median(self.ours) if self.goal.absolute else self.ratio

    def to_dict(self) -> dict[str, Any]:
        """The row as plain values."""
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": median(self.ours),
            "peer": median(self.peer),
            "peer_name": self.peer_name or None,
            "ratio": self.ratio,
            "floor": self.floor,
            "goal": self.goal and str(self.goal),
            "goal_bounds": self.goal and ("ours" if self.goal.absolute else "ratio"),
            "met": None if self.judged is None else self.goal.met(self.judged),
            "ours_spread": spread(self.ours),
            "peer_spread": spread(self.peer),
            "ours_values": list(self.ours),
            "peer_values": list(self.peer),
        }

    def cells(self) -> list[str]:
        """The row of the printed table; its last cell says by how much a goal is missed."""
        verdict = ""
        if self.judged is not None:
            verdict = "met" if self.goal.met(self.judged) else f"missed by {abs(self.judged - self.goal.limit):.3g}"
        peer = f"{number(median(self.peer))} {self.peer_name}".strip()
        return [
            self.what,
            number(median(self.ours)),
            peer,
            self.unit,
            number(self.floor),
            number(self.ratio),
            str(self.goal or ""),
            verdict,
        ]


@dataclass(frozen=True)
class Report:
    """What one benchmark found.

    Attributes:
        rows: the comparisons.
        shapes: of models and data.
        repetitions: of every contender, interleaved.
        samples: of calibration; None where a run takes its own number.
        details: whatever else was measured, such as every contender's own values.
    """

    rows: Sequence[Row]
    shapes: dict[str, Any]
    repetitions: int
    samples: int | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def write(self, name: str, folder: Path, full: bool, seconds: float) -> Path:
        """Writes NAME.json, with hardware and versions; returns its path."""
        from bench.process.provenance import environment

        around = environment()
        content = {
            "benchmark": name,
            "full": full,
            "repetitions": self.repetitions,
            "samples": self.samples,
            "num_threads": NUM_THREADS,
            "shapes": self.shapes,
            "hardware": {key: value for key, value in around["hardware"].items() if key != "num_threads"},
            "versions": around["versions"]
            | {"scikit-learn": importlib.metadata.version("scikit-learn"), "python": around["python"]},
            "code": around["code"],
            "seconds": round(seconds, 1),
            "rows": [row.to_dict() for row in self.rows],
            "details": self.details,
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.json"
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def text(self) -> str:
        """The table."""
        header = ["", "ours", "peer", "unit", "floor", "ratio", "goal", ""]
        return tabulate([row.cells() for row in self.rows], header, tablefmt="github", disable_numparse=True)


def median(values: Sequence[float]) -> float | None:
    """None without values."""
    return statistics.median(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    """Largest minus smallest value over the median; None without values or with a median of 0."""
    middle = median(values)
    return (max(values) - min(values)) / abs(middle) if middle else None


def number(value: float | None) -> str:
    """Three significant digits, or a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
