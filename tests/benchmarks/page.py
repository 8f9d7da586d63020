"""python tests/benchmarks/page.py: writes the table on what a cell costs into README.md, from results/benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from process import ROOT
from table import number

# The benchmarks of a cell, on SmolLM2-135M, and of the demo's sweep.
CELL = ("choice_scoring", "generation", "training", "first_gradients", "loading", "whole_cell", "demo_sweep")
PAGE = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- results/benchmarks of a cell -->\n", "<!-- end -->"
HEADER = ["| | ours | peer | peer is | ratio | goal | floor |", "|:--|--:|--:|:--|--:|--:|--:|"]


def main() -> None:
    """Replaces what stands between the markers."""
    paths = [path for name in CELL if (path := ROOT / "results" / "benchmarks" / f"{name}.json").is_file()]
    rows = [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    lines = "".join(f"{line}\n" for line in (*HEADER, *map(_line, rows)))
    PAGE.write_text(before + begin + lines + END + rest.partition(END)[2], encoding="utf-8")


def _line(row: dict[str, Any]) -> str:
    unit = row["unit"]
    floor = "" if row["floor"] is None else f"{number(row['floor'])} {unit}"
    compared = f"{number(row['ours'])} {unit}", f"{number(row['peer'])} {unit}", row["peer_name"]
    cells = row["what"], *compared, f"{row['ratio']:.2f}", row["goal"], floor
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
