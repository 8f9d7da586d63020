import json

import pytest
from test_record import RUN_ID, finished

from bench import verify
from bench.runs.record import CURVE, OUTCOMES, RECORD, WEIGHTS, read_record, write_record
from bench.runs.verify import problems


def test_a_run_that_is_as_it_was_written_has_no_problem(tmp_path, capsys):
    folder = finished(tmp_path)
    assert problems(folder.path) == []
    assert verify.main([str(folder.path)]) == 0
    assert capsys.readouterr().out == f"{RUN_ID}: as it was written\n"


def test_a_run_is_named_by_the_beginning_of_its_id(tmp_path, capsys, monkeypatch):
    finished(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for words in ([RUN_ID[:4]], [f"study/{RUN_ID[:4]}", "--results-dir", "runs"]):
        assert verify.main(words) == 0
    assert capsys.readouterr().out == 2 * f"{RUN_ID}: as it was written\n"
    assert verify.main(["other"]) == 2
    assert "no run 'other' in runs or results; there are: runs/study/" in capsys.readouterr().err


@pytest.mark.parametrize("name", [CURVE, OUTCOMES, WEIGHTS])
def test_a_file_with_one_changed_byte_is_found(tmp_path, capsys, name):
    folder = finished(tmp_path)
    content = bytearray((folder.path / name).read_bytes())
    content[3] ^= 1
    (folder.path / name).write_bytes(content)
    assert folder.done  # by its size; the checksum is asked for here
    assert verify.main([str(folder.path)]) == 1
    assert f"{name} is missing, or not what was written" in capsys.readouterr().out


def test_weights_may_be_missing_and_nothing_else(tmp_path):
    folder = finished(tmp_path)
    (folder.path / WEIGHTS).unlink()
    assert problems(folder.path) == []
    (folder.path / CURVE).unlink()
    assert len(problems(folder.path)) == 1


def test_a_record_that_was_edited_is_found(tmp_path):
    folder = finished(tmp_path)
    content = json.loads((folder.path / RECORD).read_text())
    content["label"] = "better"
    (folder.path / RECORD).write_text(json.dumps(content))
    assert "changed since it was written" in problems(folder.path)[0]


def test_a_record_of_another_run_is_found(tmp_path):
    folder = finished(tmp_path)
    record = read_record(folder.path)
    record.identity = {"seed": 7}
    write_record(folder.path, record)
    assert "by what its identity hashes to" in problems(folder.path)[0]


@pytest.fixture(scope="module")
def run(run_cell_in_module):
    return run_cell_in_module("method=lora_ga")[1]


def test_a_rerun_comes_to_the_same_numbers(run, capsys):
    assert verify.main([str(run.path), "--rerun"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the same numbers again"


def test_a_rerun_finds_a_number_that_was_made_up(run, capsys):
    record = read_record(run.path)
    record.scores[0].value += 0.5
    write_record(run.path, record)
    assert problems(run.path) == []  # it was forged with a checksum of its own
    assert verify.main([str(run.path), "--rerun"]) == 1
    printed = capsys.readouterr().out
    assert "differs: record.scores[0].value: " in printed
    assert printed.splitlines()[-1] == "1 differences"


def test_a_failed_run_has_nothing_to_compare(tmp_path, capsys):
    folder = finished(tmp_path, "failed")
    assert verify.main([str(folder.path), "--rerun"]) == 2
    assert "nothing to compare" in capsys.readouterr().err
