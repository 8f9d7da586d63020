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
    """One comparison; the values of all repetitions, whose medians are compared. No values: none could be had."""

    what: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float] = ()
    peer_name: str = ""
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        """Median of ours over median of the peer's."""
        ours, peer = median(self.ours), median(self.peer)
        return None if ours is None or not peer else ours / peer

    @property
    def judged(self) -> float | None:
        """What the goal bounds."""
        return median(self.ours) if self.goal and self.goal.absolute else self.ratio

    @property
    def verdict(self) -> str:
        """Met, missed by how much, or nothing where there is no goal or no value."""
        if self.goal is None or self.judged is None:
            return ""
        return "met" if self.goal.met(self.judged) else f"missed by {abs(self.judged - self.goal.limit):.3g}"

    def to_dict(self) -> dict[str, Any]:
        """The row as plain values."""
        decided = self.goal is not None and self.judged is not None
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": median(self.ours),
            "peer": median(self.peer),
            "peer_name": self.peer_name or None,
            "ratio": self.ratio,
            "goal": str(self.goal) if self.goal else None,
            "goal_bounds": None if self.goal is None else "ours" if self.goal.absolute else "ratio",
            "met": self.goal.met(self.judged) if decided else None,
            "ours_spread": spread(self.ours),
            "peer_spread": spread(self.peer),
            "ours_values": list(self.ours),
            "peer_values": list(self.peer),
        }


@dataclass(frozen=True)
class Report:
    """What one benchmark found.

    Attributes:
        rows: the comparisons.
        shapes: of models and data.
        samples: of calibration; None where a run takes its own number.
        num_threads: of every contender.
        repetitions: of every contender, interleaved.
        details: whatever else was measured, such as every contender's own values.
    """

    name: str
    rows: Sequence[Row]
    shapes: dict[str, Any]
    samples: int | None
    num_threads: int
    repetitions: int
    full: bool
    details: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, seconds: float) -> Path:
        """Writes NAME.json, with hardware and versions; returns its path."""
        from ours import environment

        around = environment()
        content = {
            "benchmark": self.name,
            "full": self.full,
            "repetitions": self.repetitions,
            "samples": self.samples,
            "num_threads": self.num_threads,
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
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def text(self) -> str:
        """The table."""
        header = ["", "ours", "peer", "unit", "ratio", "goal", ""]
        lines = [
            [
                row.what,
                number(median(row.ours)),
                number(median(row.peer)) + (f" {row.peer_name}" if row.peer_name else ""),
                row.unit,
                number(row.ratio),
                str(row.goal or ""),
                row.verdict,
            ]
            for row in self.rows
        ]
        return f"{self.name}\n" + tabulate(lines, header, tablefmt="github", disable_numparse=True)


def median(values: Sequence[float]) -> float | None:
    """None without values."""
    return statistics.median(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    """Largest minus smallest, over the median: how far single repetitions lie apart."""
    middle = median(values)
    return (max(values) - min(values)) / abs(middle) if middle else None


def number(value: float | None) -> str:
    """Three significant digits, or a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
