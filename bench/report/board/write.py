"""Renders the leaderboard: one self-contained page, and its numbers as CSV."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.report.board.rows import Board, Column, Entry
from bench.report.figures.draw import pareto_front
from bench.report.palette import colour
from bench.report.tables.render import DASH, FLOATS

PAGE, NUMBERS = "index.html", "leaderboard.csv"
ACROSS = {  # the horizontal axes of the scatter plot
    "trainable": "trainable parameters",
    "init_seconds": "seconds of initialisation",
    "forgetting": "forgetting (nats a token)",
}


def write_board(board: Board, folder: Path) -> Path:
    """Writes folder/index.html, which needs no network, and folder/leaderboard.csv; equal records make equal bytes.

    Returns:
        The page's path.
    """
    environment = Environment(loader=PackageLoader("bench.report", "."), autoescape=True, undefined=StrictUndefined)
    environment.filters["breakable"] = _breakable
    page = environment.get_template("board/board.html").render(
        board=board,
        titles=board.titles,
        cells=[{entry.key: entry for entry in column.entries} for column in board.columns],
        filters={
            "tier": sorted({column.tier for column in board.columns}),
            "task": sorted({column.task for column in board.columns}),
            "model": sorted({column.model for column in board.columns}),
        },
        data=[_points(board, column) for column in board.columns],
        across=ACROSS,
        dash=DASH,
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PAGE
    path.write_bytes(page.encode("utf-8", "replace"))
    board.frame().to_csv(folder / NUMBERS, index=False, lineterminator="\n", float_format=FLOATS)
    return path


def _breakable(text: str) -> Markup:
    """A name that may go on in the next line behind its underscores and slashes."""
    return Markup(re.sub("([_/])", r"\1<wbr>", str(escape(text))))


def _points(board: Board, column: Column) -> dict[str, Any]:
    """A column as the page's script draws it: its points, and for each axis those on the Pareto front of the means."""
    sign = 1 if column.higher_is_better else -1
    points = [_point(board, entry) for entry in column.entries]
    for name in ACROSS:
        known = [point for point in points if point[name] is not None]
        front = pareto_front([point[name] for point in known], [sign * point["mean"] for point in known])
        for point, on_front in zip(known, front, strict=True):
            point["front"][name] = on_front
    return {"title": column.title, "metric": column.metric, "points": points}


def _point(board: Board, entry: Entry) -> dict[str, Any]:
    return {
        "method": entry.method,
        "title": board.titles[entry.key],
        "colour": colour(entry.method),
        "text": f"{entry.text}, n {entry.n}, place {entry.place_text}",
        "mean": entry.mean,
        "low": entry.low,
        "high": entry.high,
        "trainable": entry.trainable or None,  # an untrained model has no place on a logarithmic axis
        "init_seconds": entry.init_seconds if entry.trainable else None,
        "forgetting": entry.forgetting,
        "front": {},
    }
