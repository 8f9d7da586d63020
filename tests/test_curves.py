import json
import math

import numpy as np
import pytest

from bench.report.read.curves import reach, read_curve, smooth


def write_curve(folder, eval_losses, every=10, seconds=2.0):
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for step in range(1, every * len(eval_losses) + 1):
        row = {"step": step, "loss": 5.0, "tokens": 100 * step, "seconds": seconds * step}
        if step % every == 0:
            row["eval_loss"] = eval_losses[step // every - 1]
        rows.append(row)
    (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("eval_losses", "target", "step"),
    [
        ([3.0, 1.0], 1.5, 17.5),  # 3 at step 10, 1 at step 20: three quarters of the way
        ([3.0, 1.0, math.nan], 1.0, 20.0),
        ([3.0, 1.0, 3.0, 0.5], 2.0, 15.0),  # the first time
        ([0.5, 0.4], 1.0, 10.0),  # the first measurement is the earliest that can be said
        ([math.inf, 1.0], 2.0, 20.0),  # no straight line from infinity
    ],
)
def test_a_target_is_reached_on_the_straight_line_between_two_measurements(tmp_path, eval_losses, target, step):
    reached = reach(read_curve(write_curve(tmp_path, eval_losses)), target)
    assert (reached.step, reached.tokens, reached.seconds) == (step, 100 * step, 2 * step)


def test_seconds_begin_before_initialisation(tmp_path):
    curve = read_curve(write_curve(tmp_path, [3.0, 1.0]), init_seconds=7.0)
    assert reach(curve, 1.0).seconds == 47.0
    assert curve.last("seconds") == 47.0


def test_a_target_that_is_never_reached_is_none(tmp_path):
    assert reach(read_curve(write_curve(tmp_path, [3.0, 1.0, math.nan])), 0.5) is None


def test_a_run_that_diverged_ends_infinitely_high(tmp_path):
    assert read_curve(write_curve(tmp_path / "a", [3.0, math.inf])).final_eval_loss == math.inf
    assert read_curve(write_curve(tmp_path / "b", [3.0, 1.0])).final_eval_loss == 1.0
    assert read_curve(tmp_path / "nothing").final_eval_loss == math.inf


def test_smoothing_keeps_both_ends():
    assert list(smooth(np.array([1.0, 2.0, 6.0]), 3)) == [1.5, 3.0, 4.0]


def test_older_curves_without_tokens_or_seconds_can_be_read(tmp_path):
    (tmp_path / "curve.jsonl").write_text('{"step": 1, "loss": 2.0, "eval_loss": 2.0}\n')
    curve = read_curve(tmp_path)
    assert reach(curve, 2.0).step == 1.0
    assert math.isnan(reach(curve, 2.0).seconds)
    assert curve.evaluated["loss"].tolist() == pytest.approx([2.0])
