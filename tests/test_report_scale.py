"""A report stays usable as its study grows, and what was written stays where a new one cannot be."""

import gzip
import json
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from browser.staged import a_record, write_record

from bench.report.figures import drawn_places
from bench.report.figures.choice import MOST_CELLS, MOST_FIGURES, best_cells, choose
from bench.report.judge.comparisons import judge, matches
from bench.report.read import outcomes
from bench.report.read.load import ReportError, load_study
from bench.report.read.members import read_members
from bench.report.write import write_report
from synthetic import make_study


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """16 methods, 5 ranks and 5 learning rates of one seed, without the files that only figures need."""
    root = tmp_path_factory.mktemp("grid")
    make_study(root / "grid", 400, alignment=False, outcomes=False, weights=False)
    return load_study(root, "grid")


@dataclass
class Row:
    method: str
    axes: dict = field(default_factory=dict)

    def unlike(self, other):
        return ()


def test_rows_match_by_method_or_by_the_settings_that_both_have():
    none, hu4, hu8 = Row("none"), Row("hu", {"rank.r": 4}), Row("hu", {"rank.r": 8})
    xs4 = Row("xs", {"rank.r": 4, "method.d": 1})
    assert all(matches(none, other) for other in (hu4, hu8, xs4))
    assert matches(hu4, hu8)
    assert matches(hu4, xs4)
    assert not matches(hu8, xs4)


def test_a_figure_of_many_rows_shows_the_best_of_each_method(grid):
    shown = best_cells(grid.cells, MOST_CELLS)
    assert [cell.method for cell in shown] == list(dict.fromkeys(cell.method for cell in grid.cells))
    scores = {id(cell): cell.runs[0].scores[0].value for cell in grid.cells}
    for cell in shown:
        assert scores[id(cell)] == max(scores[id(one)] for one in grid.cells if one.method == cell.method)


def test_what_is_left_out_of_the_figures_is_said_and_can_be_asked_for(grid):
    choice = choose(grid, drawn_places(grid))
    assert "all but each method's best of up to 400 rows" in choice.note
    assert "python -m bench.report grid --every-figure" in choice.note
    assert choose(grid, drawn_places(grid), every=True).note == ""
    many = choose(grid, [(f"t{number}", "m") for number in range(40)])
    assert many.kinds == ("score",)
    assert len(many.places) == MOST_FIGURES
    assert "those of 8 of 40 tasks and models" in many.note


def test_of_400_rows_every_pair_that_matches_is_compared(grid):
    cells = grid.cells
    made = [(cells[one.first], cells[one.second]) for one in judge(cells).comparisons]
    # 16 methods, each of 25 settings: C(25, 2) pairs of one method, C(16, 2) at each setting
    assert sum(matches(*pair) for pair in made) == 16 * 300 + 25 * 120


def test_an_unfinished_runs_hidden_folder_is_no_run(tmp_path):
    write_record(tmp_path / "study", a_record("hu-0"))
    shutil.copytree(tmp_path / "study" / "hu-0", tmp_path / "study" / ".hu-1")
    members, unreadable = read_members(tmp_path / "study")
    assert [folder.name for folder, _ in members] == ["hu-0"]
    assert unreadable == []


def test_records_of_two_schema_versions_are_not_mixed_unless_asked_for(tmp_path):
    write_record(tmp_path / "study", a_record("hu-0"))
    write_record(tmp_path / "study", a_record("hu-1", seed=1))
    path = tmp_path / "study" / "hu-1" / "record.json"
    older = json.loads(path.read_text()) | {"schema_version": 3}
    for name in ("checksum", "files", "attempts", "command"):
        del older[name]
    path.write_text(json.dumps(older))
    with pytest.raises(ReportError, match=r"2 schema versions \(3: 1 runs; 4: 1 runs\).*--mix"):
        load_study(tmp_path, "study")
    assert len(load_study(tmp_path, "study", mix=True).cells[0].runs) == 2


def a_line(number, right, response="a"):
    item = {"task": "t", "filter": "none", "doc_id": number, "doc_hash": f"h{number}", "target": "x"}
    return json.dumps(item | {"response": response, "metrics": {"acc": right}, "choice": None})


def test_items_are_in_the_order_of_the_data_whatever_their_texts(tmp_path):
    hostile = 'a", "metrics": {"acc": 7.0}, "target": "b'
    lines = [a_line(1, 1.0, hostile), a_line(0, 0.0, "\n")]
    (tmp_path / "outcomes.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    assert outcomes.items_of(tmp_path, "t", "acc").values.tolist() == [0.0, 1.0]


def test_a_full_disk_is_one_line_and_leaves_the_earlier_report(tmp_path):
    write_record(tmp_path / "study", a_record("hu-0"))
    before = snapshot(write_report(load_study(tmp_path, "study"), tmp_path / "study").page.parent)
    write_record(tmp_path / "study", a_record("hu-1", seed=1))

    def no_large_file():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))  # a file that grows beyond is refused

    command = [sys.executable, "-m", "bench.report", "study", "--results-dir", str(tmp_path)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=no_large_file, cwd=root, check=False)
    assert done.returncode != 0
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "cannot be written: File too large" in line
    assert snapshot(tmp_path / "study") == before
    assert not [path for path in (tmp_path / "study").iterdir() if path.name.startswith(".")]


def snapshot(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "record.json"]
    return {path.relative_to(folder): path.read_bytes() for path in files}
