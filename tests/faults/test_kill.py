"""SIGKILL in every phase of a run: the same command ends it with the record of an undisturbed run."""

import pytest
from conftest import SHORT, composed_run
from faults import kinds
from faults.harness import assert_same, ended, finished, folder_of, killed, leftovers

from models import tiny_bert, word_tokenizer

STEPS = ("train.max_steps=8", "checkpoint.steps=3")


def cell(root, *overrides):
    return composed_run(*SHORT, *STEPS, f"results_dir={root}", *overrides)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run of LoRA-SB, which calibrates and trains R, to the end."""
    return finished(cell(tmp_path_factory.mktemp("undisturbed"), "method=lora_sb"))


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
# Each is beside a phase that is like it.
NIGHTLY = {"load", "initialise", "save", "save, while sealing", "record, written"}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=name, marks=[pytest.mark.faults] if name in NIGHTLY else [])
        for name, fault in FAULTS.items()
    ],
)
def test_a_run_killed_in_any_phase_goes_on_to_the_bit(tmp_path, undisturbed, fault):
    cfg = cell(tmp_path, "method=lora_sb")
    killed(cfg, *fault)
    assert ended(cfg) == 0
    assert_same(undisturbed, folder_of(cfg).path)
    assert leftovers(cfg) == []


def test_a_run_killed_after_its_record_stands_is_done(tmp_path, undisturbed):
    cfg = cell(tmp_path, "method=lora_sb")
    assert ended(cfg, kinds.kill_after_rename) != 0
    assert_same(undisturbed, folder_of(cfg).path)
    assert folder_of(cfg).done


def dropping(folder):
    """An encoder with dropout, whose draws must go on where they stopped."""
    model = tiny_bert(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2).bert
    model.save_pretrained(folder)
    word_tokenizer("encoder").save_pretrained(folder)
    return ("task=glue_tiny", "task.train=[acceptability_tiny]", "task.score=[acceptability_tiny]", "model=local",
            f"model.path={folder}")  # fmt: skip


CASES = {
    "full_ft": ("method=full_ft",),
    "hu with accumulation, LoRA+ and a cosine": (
        "method=hu", "train.gradient_accumulation_steps=2", "adapter.loraplus_lr_ratio=4",
        "train.lr_scheduler_type=cosine",
    ),
    "lora_ga in DoRA": ("method=lora_ga", "adapter.use_dora=true"),
    "encoder": ("method=hu",),
}  # fmt: skip


@pytest.mark.parametrize(
    "case", [*list(CASES)[:1], *(pytest.param(c, marks=pytest.mark.faults) for c in list(CASES)[1:])]
)
def test_whatever_trains_goes_on_to_the_bit(tmp_path, case):
    """Killed twice: between checkpoints, and before the first step after one."""
    overrides = CASES[case] + (dropping(tmp_path / "model") if case == "encoder" else ())
    whole, broken = cell(tmp_path / "whole", *overrides), cell(tmp_path / "broken", *overrides)
    assert ended(whole) == 0
    killed(broken, kinds.kill_after_step, 5)
    killed(broken, kinds.kill_after_step, 4)
    assert ended(broken) == 0
    assert_same(folder_of(whole).path, folder_of(broken).path)
