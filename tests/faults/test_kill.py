"""SIGKILL in every phase of a run: the same command ends it with the record of an undisturbed run."""


import pytest
from conftest import SHORT, composed_run
from faults import kinds
from faults.harness import assert_same, ended, folder_of, killed, leftovers

STEPS = ("train.max_steps=8", "checkpoint.steps=3")


def cell(root, *overrides):
    return composed_run(*SHORT, *STEPS, f"results_dir={root}", *overrides)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of LoRA-SB, which calibrates and trains R, to the end."""
    cfg = cell(tmp_path_factory.mktemp("undisturbed"), "method=lora_sb")
    assert ended(cfg) == 0
    return folder_of(cfg).path


FAULTS = {
    "load": (kinds.kill_entering, "load"),
    "calibrate": (kinds.kill_entering, "calibrate"),
    "initialise": (kinds.kill_entering, "initialise"),
    "train, no checkpoint yet": (kinds.kill_after_step, 2),
    "train, between checkpoints": (kinds.kill_after_step, 5),
    "save": (kinds.kill_while_saving, 6),
    "save, unsealed": (kinds.kill_before_seal, 6),
    "save, while sealing": (kinds.kill_while_sealing, 6),
    "score": (kinds.kill_entering, "score"),
    "record": (kinds.kill_before_record,),
    "record, written": (kinds.kill_after_record,),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_run_killed_in_any_phase_goes_on_to_the_bit(tmp_path, undisturbed, fault):
    cfg = cell(tmp_path, "method=lora_sb")
    killed(cfg, *fault)
    assert ended(cfg) == 0
    assert_same(undisturbed, folder_of(cfg).path)
    assert leftovers(cfg) == []
