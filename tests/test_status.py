import json
import os
import socket
import time

import pytest
from test_record import RUN_ID, a_record, finished

from bench import status
from bench.runs.attempt import held
from bench.runs.folder import RunFolder
from bench.runs.lease import Lease
from bench.runs.record import FAILED, INTERRUPTED, WEIGHTS
from bench.runs.state import DONE, NEW, RECORDED, RUNNING, STALE, state
from bench.study.plan_file import RUN, PlannedRun, StudyPlan, write_plan
from bench.study.status import SHOWN


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path, "study", RUN_ID)


def plan(root, *run_ids, experiment="demo", arguments=()):
    runs = tuple(PlannedRun(RUN, (f"seed={i}",), (f"seed={i}",), run_id) for i, run_id in enumerate(run_ids))
    write_plan(root / "study", StudyPlan(experiment, (RUN,), runs, arguments=arguments))


def lease(folder, host="node7", pid=12, beat=None, progress=None):
    folder.workspace.mkdir(parents=True, exist_ok=True)
    marker = folder.workspace / "lease"
    marker.write_text(f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken=another\nduration=60.0\n")
    os.utime(marker, None if beat is None else (beat, beat))
    (folder.workspace / "progress.json").write_text(json.dumps({"since": time.time() - 100, **(progress or {})}))


def main(capsys, root, *arguments):
    code = status.main(["study", "--results-dir", str(root), *arguments])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_each_state_is_told_from_the_others(tmp_path, folder):
    assert state(folder).name == NEW
    with held(folder, 60, wait=False) as attempt:
        assert state(folder).name == RUNNING
        attempt.interrupt(a_record(INTERRUPTED))
    assert state(folder).name == INTERRUPTED
    lease(folder, host=socket.gethostname(), pid=2**22 + 1)
    assert state(folder).name == STALE
    for path in folder.workspace.iterdir():
        path.unlink()
    folder.workspace.rmdir()
    finished(tmp_path, FAILED)
    assert state(folder).name == FAILED
    finished(tmp_path)
    assert state(folder).name == DONE
    (folder.path / WEIGHTS).unlink()
    assert state(folder).name == RECORDED


def test_a_retried_run_is_running_though_it_has_failed_before(tmp_path):
    folder = finished(tmp_path, FAILED)
    one = Lease(folder.workspace, 60)
    assert one.acquire()
    assert state(folder).name == RUNNING
    one.release()


def test_a_foreign_process_that_was_quiet_for_long_is_stale(folder):
    lease(folder, beat=time.time() - 3600)
    assert state(folder).name == STALE
    lease(folder)
    assert state(folder).name == RUNNING


def test_it_says_where_a_run_is_since_when_and_how_far(tmp_path, folder, capsys):
    plan(tmp_path, RUN_ID)
    progress = {"phase": "train", "step": 30, "num_steps": 90, "seconds_left": 125.0}
    lease(folder, progress=progress)
    code, printed = main(capsys, tmp_path)
    assert code == 0
    assert "process 12 on node7, since " in printed
    assert "train, step 30 of 90, 2 min left to train" in printed
    lease(folder, progress={"phase": "score", "step": 90, "num_steps": 90, "seconds_left": 0.0})
    assert "score" in main(capsys, tmp_path)[1]
    assert "left to train" not in main(capsys, tmp_path)[1]


@pytest.mark.parametrize("experiment", ["compare", None])
def test_what_goes_on_has_the_sweeps_own_overrides(tmp_path, capsys, experiment):
    plan(tmp_path, RUN_ID, experiment=experiment, arguments=("method=hu,pissa", "study=study", "data.root=FOLDER"))
    _, printed = main(capsys, tmp_path)
    named = f"+experiments={experiment} " * (experiment is not None)
    goes_on = f"python -m bench.run -m {named}method=hu,pissa study=study data.root=FOLDER results_dir={tmp_path}"
    assert f"to continue: {goes_on}" in printed.splitlines()


def test_it_says_why_a_run_failed_and_how_to_do_it_again(tmp_path, capsys):
    plan(tmp_path, RUN_ID, "hu-other")
    folder = RunFolder(tmp_path, "study", RUN_ID)
    with held(folder, 60, wait=False) as attempt:
        record = a_record(FAILED)
        record.error = {"type": "DivergedError", "message": "the loss is nan", "step": 7, "traceback": ""}
        attempt.close(record)
    code, printed = main(capsys, tmp_path)
    assert code == 0
    assert f"{RUN_ID}: DivergedError: the loss is nan (step 7)" in printed
    into = f"results_dir={tmp_path}"
    assert f"python -m bench.run +experiments=demo seed=0 {into} hydra.mode=RUN run.retry_failed=true" in printed
    assert f"to continue: python -m bench.run -m +experiments=demo {into}" in printed
    assert [cell.strip() for cell in printed.splitlines()[4].split("|")[1:-1]] == ["run", "2", "0", "1", "1"]


def test_runs_that_no_plan_names_are_counted_apart(tmp_path, capsys):
    plan(tmp_path, "hu-other")
    finished(tmp_path)
    printed = main(capsys, tmp_path)[1]
    assert [cell.strip() for cell in printed.splitlines()[5].split("|")[1:-1]] == ["not planned", "1", "1", "0"]


def test_many_failures_are_named_only_when_asked(tmp_path, capsys):
    names = [f"hu-{number:08x}" for number in range(SHOWN + 3)]
    plan(tmp_path, *names)
    for name in names:
        finished(tmp_path, FAILED, run_id=name)
    assert "and 3 more; --all names them" in main(capsys, tmp_path)[1]
    assert main(capsys, tmp_path, "--all")[1].count("run.retry_failed=true") == len(names)


def test_machines_get_every_run_that_is_not_done(tmp_path, folder, capsys):
    plan(tmp_path, RUN_ID, "hu-other")
    lease(folder)
    code, printed = main(capsys, tmp_path, "--json")
    found = json.loads(printed)
    assert code == 0
    assert found["stages"]["run"] == {"running": 1, "new": 1, "waiting": 0}
    assert found["runs"][RUN_ID]["host"] == "node7"
    assert found["runs"]["hu-other"] == {"state": "new"}


@pytest.mark.parametrize("name", ["nothing", "../study", "/tmp"])
def test_what_is_no_study_is_answered_in_one_line(tmp_path, capsys, name):
    assert status.main([name, "--results-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
