"""`python -m bench.diff` names everything in which two runs differ, in one order, and nothing else."""

import re
import shutil
from pathlib import Path

import pytest

from bench.diff import main
from bench.runs.diff import differing
from bench.runs.record import Record, read_record, write_record
from bench.study.named import run_folder

RESULTS = Path(__file__).parents[1] / "results"
ORDER = ["configuration", "versions", "data", "hardware", "numbers"]


def a_run(method="hu", seed=0, study="demo"):
    return next((RESULTS / study).glob(f"{method}-*-s{seed}-*"))


def changed(tmp_path, change, run=None):
    """A copy of a run whose record's content is changed."""
    run = run or a_run()
    folder = tmp_path / "trial" / run.name
    shutil.copytree(run, folder)
    content = read_record(folder).model_dump()
    change(content)
    write_record(folder, Record.model_validate(content))
    return folder


def test_a_run_does_not_differ_from_itself(capsys):
    assert differing(a_run(), a_run()) == []
    assert main([str(a_run()), str(a_run())]) == 0
    assert capsys.readouterr().out.endswith("no difference\n")


def test_two_seeds_differ_in_the_seed_and_in_numbers_only():
    found = differing(a_run(seed=0), a_run(seed=1))
    before = [(one.part, one.what, one.first, one.second) for one in found if one.part != "numbers"]
    assert before == [("configuration", "seed", 0, 1)]
    numbers = {one.what for one in found if one.part == "numbers"}
    assert {"gsm_tiny exact_match,strict-match", "training.eval_loss", "train: seconds", "curve.jsonl: rows"} <= numbers
    assert "initialization.num_trainable" not in numbers


CHANGES = {
    ("configuration", "train.learning_rate"): lambda content: content["config"]["train"].update(learning_rate=0.5),
    ("versions", "torch"): lambda content: content["environment"]["versions"].update(torch="0"),
    ("versions", "code.revision"): lambda content: content["environment"]["code"].update(revision="f" * 40),
    ("data", "data.sha256"): lambda content: content["data"].update(sha256="e" * 64),
    ("data", "model.revision"): lambda content: content["model"].update(revision="main"),
    ("hardware", "gpu"): lambda content: content["environment"]["hardware"].update(gpu="NVIDIA H100"),
    ("hardware", "variables.OMP_NUM_THREADS"): lambda content: content["environment"]["variables"].update(
        OMP_NUM_THREADS="2"
    ),
    ("numbers", "gsm_tiny exact_match,strict-match"): lambda content: content["scores"][0].update(value=0.25),
    ("numbers", "train: peak_bytes"): lambda content: content["phases"]["train"].update(peak_bytes=7),
    ("numbers", "initialization.layers: rows"): lambda content: content["initialization"]["layers"][3].update(
        drift=9.0
    ),
}


@pytest.mark.parametrize(("part", "what"), CHANGES)
def test_a_change_is_named_with_both_values_and_nothing_else_is(tmp_path, part, what):
    (found,) = differing(a_run(), changed(tmp_path, CHANGES[part, what]))
    assert (found.part, found.what) == (part, what)
    assert found.first != found.second


def test_a_row_of_a_curve_that_differs_is_counted(tmp_path):
    folder = changed(tmp_path, lambda content: None)
    (file,) = folder.glob("outcomes.jsonl*")
    file.write_bytes(next((a_run("lora_ga")).glob("outcomes.jsonl*")).read_bytes())
    (found,) = differing(a_run(), folder)
    assert found.what == "outcomes.jsonl.gz: rows"
    assert 0 < int(re.search(r"of which (\d+) differ", found.second)[1]) <= found.first


def elsewhere(content):
    content["data"]["num_train"] += 1
    content["environment"]["hardware"]["num_threads"] = 2


def test_the_table_is_in_the_order_of_its_parts(tmp_path, capsys):
    other = changed(tmp_path, elsewhere, a_run("lora_ga", study="schemes"))
    assert main([str(a_run("hu")), str(other)]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    parts = [cells[0].strip() for cells in rows[1:]]
    assert list(dict.fromkeys(parts)) == ORDER
    assert parts == sorted(parts, key=ORDER.index)
    named = {cells[1].strip(): [cell.strip() for cell in cells[2:]] for cells in rows}
    assert named["method.name"] == ["hu", "lora_ga", ""]
    assert named["num_threads"] == ["1", "2", "+1"]
    assert float(named["gsm_tiny exact_match,strict-match"][2]) == pytest.approx(
        read_record(a_run("lora_ga", study="schemes")).scores[0].value - read_record(a_run()).scores[0].value, rel=1e-3
    )


def test_a_run_is_named_by_its_folder_its_id_or_the_beginning_of_it():
    for text in (str(a_run()), a_run().name, f"demo/{a_run().name}", a_run().name[:-2], f"demo/{a_run().name[:-2]}"):
        assert run_folder([RESULTS], text).resolve() == a_run()


def test_what_names_no_run_or_several_is_one_line(tmp_path, capsys):
    assert main(["demo/hu-", a_run().name, "--results-dir", str(RESULTS)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: 'demo/hu-' names 3 runs: \S+/demo/hu-\S+, \S+/demo/hu-\S+, \S+/demo/hu-\S+; write", line)
    assert main(["nobody", a_run().name, "--results-dir", str(RESULTS)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: no run 'nobody' in \S+; there are: \S+, \S+, \S+, \S+, and [\d,]+ more$", line)
    assert main(["a", "b", "--results-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("there are: none\n")


def test_a_run_that_two_results_folders_have_is_named_by_its_folder(tmp_path):
    copied = tmp_path / "runs" / "demo" / a_run().name
    shutil.copytree(a_run(), copied)
    roots = [tmp_path / "runs", RESULTS]
    with pytest.raises(ValueError, match=r"names 2 runs: \S+/runs/demo/hu-\S+, \S+/results/demo/hu-\S+; write more"):
        run_folder(roots, a_run().name)
    assert run_folder(roots, str(copied)) == copied


def test_a_run_that_two_studies_have_is_named_with_its_study():
    shared = {path.name for path in (RESULTS / "lora_sb/glue_tiny").glob("hu-*")} & {
        path.name for path in (RESULTS / "asymmetry/glue_tiny").glob("hu-*")
    }
    name = min(shared)
    with pytest.raises(ValueError, match=rf"^'{name}' names \d runs: \S+/asymmetry/glue_tiny/"):
        run_folder([RESULTS], name)
    assert run_folder([RESULTS], f"lora_sb/glue_tiny/{name}").parent.name == "glue_tiny"
