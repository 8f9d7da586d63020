"""The leaderboard says no more than the studies' own comparisons do."""

import json
import shutil
from itertools import pairwise, permutations
from pathlib import Path

import pandas as pd
import pytest

from bench.leaderboard import main
from bench.report.board import read_board, write_board
from bench.report.judge.comparisons import judge
from bench.report.judge.ranks import places, trained_places
from bench.report.read.load import load_study
from bench.report.read.members import ReportError

RESULTS = Path(__file__).parents[1] / "results"


def test_without_a_difference_every_method_ties():
    assert places(3, []) == [(1, 3)] * 3
    assert places(0, []) == []


def test_a_method_is_below_another_only_where_a_chain_of_differences_says_so():
    # 2 beats 0, 0 beats 3; nothing is known of 1
    assert places(4, [(2, 0), (0, 3)]) == [(2, 3), (1, 4), (1, 2), (3, 4)]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_a_whole_order_gives_every_method_one_place_however_the_pairs_are_listed(order):
    chain = list(pairwise(order))
    found = places(4, reversed(chain))
    assert [found[row] for row in order] == [(1, 1), (2, 2), (3, 3), (4, 4)]


@pytest.mark.parametrize("study", ["demo", "schemes", "impact_of_init/gsm8k_tiny"])
def test_the_places_of_a_committed_study_follow_from_its_own_significant_comparisons(study):
    loaded = load_study(RESULTS, study)
    judged = judge(loaded.cells, loaded.pairing)
    measured = judged.measured[0]
    found = trained_places(judged, measured, range(len(judged.cells)))
    written = pd.read_csv(RESULTS / study / "tables" / "comparisons.csv")
    written = written[(written["metric"] == measured.column.metric) & written["is_significant"]]
    if "stage" in written and written["stage"].notna().any():
        written = written[written["stage"] == loaded.stage]
    names = [cell.method for cell in judged.cells]
    assert {names[row] for row in found} == {cell.method for cell in loaded.cells if cell.trained}
    for row in written.itertuples():
        better, worse = (row.first_method, row.second_method)[:: 1 if row.difference > 0 else -1]
        assert found[names.index(better)][0] < found[names.index(worse)][0]
        assert found[names.index(better)][1] < found[names.index(worse)][1]
    if written.empty:
        assert set(found.values()) == {(1, len(found))}


def test_a_difference_of_one_seed_puts_no_method_below_another():
    study = load_study(RESULTS, "impact_of_init/width_tiny")
    (cells, *_) = (part.cells for part in study.by_task_and_model.values())
    judged = judge(cells, study.pairing)
    assert any(one.p_items < 1e-3 and one.measured is judged.measured[0] for one in judged.comparisons)
    found = trained_places(judged, judged.measured[0], range(len(cells)))
    assert set(found.values()) == {(1, len(cells))}


@pytest.fixture
def results(tmp_path):
    """Two studies, one of others, and one that only chooses a learning rate."""
    root = tmp_path / "results"
    for study, methods, of in (
        ("mine", ("none", "hu", "lora_ga", "lora_xs"), "demo"),
        ("community/theirs/gsm_tiny", ("hu", "reversed"), "demo"),
        ("rates", ("hu", "reversed"), "impact_of_init/width_tiny"),
    ):
        for method in methods:
            for source in (RESULTS / of).glob(f"{method}-*"):
                shutil.copytree(source, root / study / source.name)
    shutil.copy(RESULTS / "impact_of_init/width_tiny/study.json", root / "rates")
    return root


def test_every_study_that_was_scored_has_a_column_and_the_others_a_reason(results):
    board = read_board(results)
    assert [(column.study, column.verified) for column in board.columns if "exact" in column.metric] == [
        ("community/theirs/gsm_tiny", True),
        ("mine", False),
    ]
    assert [name for name, _ in board.left_out] == ["rates"]
    assert "choose learning rates" in board.left_out[0][1]
    mine = board.columns[-1]
    assert (mine.task, mine.model, mine.tier) == ("gsm_tiny", "tiny_llama", "embedded")
    of = {entry.method: entry for entry in mine.entries}
    record = load_study(results, "mine")
    assert of["hu"].trainable == 74_752
    assert of["hu"].init_seconds == pytest.approx(
        sum(run.init_seconds for cell in record.cells if cell.method == "hu" for run in cell.runs) / 3
    )
    assert (of["none"].place, of["none"].place_text) == (None, "–")
    assert of["lora_xs"].place[0] > 1


def test_a_number_is_the_one_of_the_studys_table(results):
    board = read_board(results)
    table = (RESULTS / "demo" / "tables" / "results.md").read_text()
    column = next(one for one in board.columns if one.study == "mine" and "exact" in one.metric)
    for entry in column.entries:
        assert f" {entry.text} |" in table.replace("**", "")


def test_a_study_of_others_with_a_changed_file_is_left_out_and_named(results):
    folder = next((results / "community/theirs/gsm_tiny").glob("hu-*"))
    file = next(path for path in folder.iterdir() if path.name.startswith("outcomes"))
    file.write_bytes(file.read_bytes() + b" ")
    board = read_board(results)
    assert {column.study for column in board.columns} == {"mine"}
    (reason,) = (reason for name, reason in board.left_out if name.startswith("community"))
    assert reason.startswith(f"1 runs are not as they were written; the first: {folder.name}: {file.name} is missing")


def test_a_record_in_the_folder_of_another_run_is_left_out(results):
    folder = next((results / "community/theirs/gsm_tiny").glob("hu-*"))
    folder.rename(folder.with_name(folder.name[:-8] + "00000000"))
    assert ["the record is of another run" in reason for _, reason in read_board(results).left_out] == [True, False]


def test_methods_have_a_row_a_rank_where_the_board_has_them_at_several():
    board = read_board_of("lora_sb/arithmetic_tiny")
    assert list(board.titles.values()) == [
        "LoRA", "LoRA-XS, r\u00a08", "LoRA-XS, r\u00a016", "LoRA-SB, r\u00a08", "LoRA-SB, r\u00a016"
    ]  # fmt: skip


def read_board_of(study):
    from bench.report.board.rows import Board, _columns

    return Board(tuple(_columns(load_study(RESULTS, study))), ())


def test_budgets_of_one_study_are_columns_and_ranked_apart():
    board = read_board_of("lora_ga/llama2_tiny")
    settings = [column.setting for column in board.columns if "exact" in column.metric]
    assert settings == ["max_steps 50", "max_steps 87", "max_steps 150"]
    assert {len(column.entries) for column in board.columns} == {3}
    assert {entry.place[1] for column in board.columns for entry in column.entries} <= {1, 2, 3}


def test_a_results_folder_without_a_study_is_one_line(tmp_path, capsys):
    assert main(["--results-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: no study in {tmp_path} can be shown\n"
    with pytest.raises(ReportError):
        read_board(tmp_path)


def test_the_command_writes_a_page_that_needs_no_network_and_its_numbers(results, capsys):
    assert main(["--results-dir", str(results), "--to", str(results / "leaderboard")]) == 0
    out = capsys.readouterr().out
    assert "5 rows, " in out
    assert "left out: rates: its runs choose learning rates" in out
    page = (results / "leaderboard" / "index.html").read_text()
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert "by others, checksums verified" in page
    numbers = pd.read_csv(results / "leaderboard" / "leaderboard.csv")
    assert numbers["best_place"].isna().sum() == (numbers["method"] == "none").sum()
    again = (results / "leaderboard" / "index.html").read_bytes()
    write_board(read_board(results), results / "leaderboard")
    assert (results / "leaderboard" / "index.html").read_bytes() == again


def test_a_study_of_two_results_folders_has_a_column_of_each(results, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(results / "mine", other / "mine")
    named = {column.study for column in read_board(results, other).columns}
    assert {f"{results}/mine", f"{other}/mine"} <= named
    assert "mine" not in named


def test_only_points_that_no_other_beats_are_on_the_front(results):
    write_board(read_board(results), results / "out")
    page = (results / "out" / "index.html").read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    column = next(one for one in data["columns"] if one["title"].startswith("mine") and "exact" in one["title"])
    front = {point["method"]: point["front"].get("trainable") for point in column["points"]}
    assert front == {"none": None, "hu": False, "lora_ga": True, "lora_xs": True}
