import csv
import json
import math
import re
from dataclasses import replace

import pytest
import yaml
from records import a_config, a_score, make_record, write_rows
from scipy import stats

from bench.report.claims import NOT_RUN, answers, claims_list, main, read_claims, sharing, write_claims
from bench.report.papers.answers import EQUIVALENT, NO, NOT_LEARNED, UNDECIDED, YES, Answer, NotRunError
from bench.report.papers.order_question import same_order
from bench.report.papers.rate_questions import larger_rate, rate_by_width
from bench.report.papers.score_questions import as_high_score, fewer_parameters, higher_score
from bench.report.papers.step_questions import fewer_steps
from bench.report.read.load import ReportError, load_study
from bench.runs.record import write_record
from bench.study.folders import ROOT
from bench.study.plan_file import PlannedRun, StudyPlan, write_plan

CLAIMS = ROOT / "experiments" / "_claims.yaml"
HU, REVERSED = {"method": "hu"}, {"method": "reversed"}
GRID = (0.001, 0.003, 0.01, 0.03, 0.1)


def alone(compared):
    """The answer to a question on scores where no other is asked."""
    return compared if isinstance(compared, Answer) else compared.answer(compared.p)


class Maker:
    """Records of one study in results/p/s, and its plan."""

    def __init__(self, root):
        self.root, self.runs = root, []

    def run(self, method, value=None, seed=0, stage="tuned", rate=0.01, group=(), **about):
        """Eval losses are (step, loss); a second of training a step, and about["init"] seconds before it."""
        model, status = about.get("model", "m"), about.get("status", "completed")
        run_id = "-".join([method, stage, str(rate), model, *group, str(seed)])
        config = a_config(method, seed, rate, model=model) | {"stage": stage, "group": list(group)}
        config["train"]["max_steps"] = about.get("steps", 4)
        record = make_record(run_id, status, method.upper(), config, config, {"fingerprint": "f"})
        record.initialization = {"num_trainable": about.get("num_trainable", 100), "num_head": 0}
        record.phases = {"initialise": {"seconds": about.get("init", 0.0)}}
        record.training = {"num_steps": 4, "eval_loss": about.get("loss")}
        higher = about.get("higher_is_better", True)
        scores = value if isinstance(value, dict) else {"t": value}
        record.scores = [
            a_score(
                one, task, about.get("metric", "acc"),
                stderr=None, higher_is_better=higher, majority=about.get("majority"),
            )
            for task, one in scores.items()
            if one is not None
        ]  # fmt: skip
        folder = self.root / "p/s" / run_id
        folder.mkdir(parents=True)
        write_record(folder, record)
        losses = about.get("losses", ())
        write_rows(folder / "curve.jsonl", [{"step": n, "seconds": n, "eval_loss": loss} for n, loss in losses])
        self.runs.append(PlannedRun(stage, (f"method={method}", *group), (f"x={run_id}",), run_id))

    def select(self, method, best, rates=GRID, seeds=(100, 101, 102), noise=0.01, **about):
        """Scores around a parabola with its vertex at the best rate, in decades."""
        for rate in rates:
            for place, seed in enumerate(seeds):
                value = 0.6 - 0.2 * math.log10(rate / best) ** 2 + noise * (place - 1)
                self.run(method, value, seed=seed, stage="select", rate=rate, **about)

    def study(self):
        stages = tuple(dict.fromkeys(run.stage for run in self.runs))
        write_plan(self.root / "p/s", StudyPlan("p/s", stages, tuple(self.runs)))
        return load_study(self.root, "p/s")


@pytest.fixture
def made(tmp_path):
    return Maker(tmp_path)


def pairs(made, ours, theirs, **about):
    for seed, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        made.run("hu", one, seed, **about)
        made.run("reversed", other, seed, **about)
    return made.study()


def test_the_difference_is_of_two_independent_groups_of_seeds(made):
    found = alone(higher_score(pairs(made, (0.11, 0.52, 0.93), (0.10, 0.50, 0.90)), HU, REVERSED))
    welch = stats.ttest_ind((11, 52, 93), (10, 50, 90), equal_var=False)
    assert (found.estimate, found.n, found.unit) == (pytest.approx(2.0), 3, "points")
    assert (found.low, found.high, found.p) == pytest.approx((*welch.confidence_interval(), welch.pvalue))
    # (1.959964 + 0.841621)^2 (41^2 + 40^2) / 2^2 = 6,438, with Student's t a few more
    assert (found.text, found.seeds_needed) == (UNDECIDED, 6_440)
    assert "6,440 seeds would find a difference of this size" in found.details


def test_a_study_that_declares_it_pairs_its_seeds(made):
    study = pairs(made, (0.11, 0.52, 0.93), (0.10, 0.50, 0.90))
    study = replace(study, plan=replace(study.plan, pairing="seeds"))
    # differences 1, 2, 3 points although the seeds lie 40 points apart: 2 ± t(0.975, 2) 4.3027 / sqrt(3) = 2 ± 2.4842
    assert alone(higher_score(study, HU, REVERSED)).high == pytest.approx(4.4842, abs=1e-3)


@pytest.mark.parametrize(("shift", "text"), [(0.2, YES), (-0.2, NO)])
def test_an_interval_on_one_side_is_an_answer(made, shift, text):
    study = pairs(made, (0.5 + shift, 0.501 + shift, 0.502 + shift), (0.5, 0.5, 0.5))
    compared = higher_score(study, HU, REVERSED)
    assert alone(compared).text == text
    assert compared.answer(0.06).text == UNDECIDED  # after a correction


def test_a_score_and_a_loss_that_disagree_decide_nothing(made):
    for seed in range(3):
        made.run("hu", 0.7 + seed / 100, seed, loss=0.2)
        made.run("reversed", 0.5, seed, loss=0.1)
    found = alone(higher_score(made.study(), HU, REVERSED))
    assert found.text == UNDECIDED
    assert "HU has 2 [2, 2] times the loss; score and loss disagree in sign" in found.details


def test_where_a_claim_asks_for_the_loss_the_loss_is_tested(made):
    for seed in range(3):
        made.run("hu", 0.99, seed, loss=0.1 * (1 + seed / 50))
        made.run("reversed", 0.98, seed, loss=0.2 * (1 + seed / 50))
    study = made.study()
    found = alone(higher_score(study, HU, REVERSED, endpoint="loss"))
    assert (found.text, found.estimate, found.unit) == (YES, pytest.approx(0.5), "times the loss")
    assert found.low < 0.5 < found.high < 0.6
    assert alone(higher_score(study, REVERSED, HU, endpoint="loss")).text == NO


def test_methods_that_are_alike_within_the_margin_are_equivalent(made):
    study = pairs(made, (0.700, 0.701, 0.699), (0.702, 0.703, 0.701))
    found = alone(higher_score(study, HU, REVERSED))
    assert (found.text, found.details.rpartition("; ")[2]) == (EQUIVALENT, "within 1 point")
    narrower = higher_score(study, HU, REVERSED, margin=0.3)  # the 90 % interval is [-0.37, -0.03]
    assert narrower.answer(1.0).text == UNDECIDED


def test_what_neither_has_learned_is_left_out_or_the_answer(made):
    ours = [{"x": 0.26 + seed / 100, "y": 0.9 + seed / 100} for seed in range(3)]
    theirs = [{"x": 0.25 - seed / 100, "y": 0.5} for seed in range(3)]
    study = pairs(made, ours, theirs, majority=0.3)
    found = alone(higher_score(study, HU, REVERSED))
    assert (found.text, found.estimate) == (YES, pytest.approx(41))
    assert "without x, which neither learned" in found.details
    found = alone(higher_score(study, HU, REVERSED, task="x"))
    assert (found.text, found.details, found.estimate) == (NOT_LEARNED, "neither is clear of chance in x", None)


def test_of_a_metric_that_is_better_lower_the_lower_is_the_higher_score(made):
    study = pairs(made, (1.0, 1.1, 1.2), (2.0, 2.1, 2.3), metric="perplexity", higher_is_better=False)
    found = alone(higher_score(study, HU, REVERSED))
    assert (found.text, found.estimate, found.unit) == (YES, pytest.approx(3.1 / 3), "")


def test_one_seed_decides_nothing(made):
    found = alone(higher_score(pairs(made, (0.9,), (0.1,)), HU, REVERSED))
    assert (found.text, found.low, found.n) == (UNDECIDED, None, 1)
    assert "one seed" in found.details


def test_several_tasks_count_by_their_mean_and_one_can_be_asked_for(made):
    study = pairs(made, [{"x": 0.5, "y": 0.9}] * 2, [{"x": 0.5, "y": 0.5}] * 2)
    assert alone(higher_score(study, HU, REVERSED)).estimate == pytest.approx(20)
    assert alone(higher_score(study, HU, REVERSED, task="y")).estimate == pytest.approx(40)


def test_as_high_within_a_margin_is_another_question_than_higher(made):
    study = pairs(made, (0.497, 0.498, 0.499), (0.5, 0.501, 0.502))
    assert alone(higher_score(study, HU, REVERSED)).text == NO
    assert alone(as_high_score(study, HU, REVERSED)).text == YES
    assert alone(as_high_score(study, HU, REVERSED, margin=0.05)).text == NO


def test_a_stage_can_be_asked_for(made):
    for stage, value in (("tuned", 0.9), ("shared", 0.1)):
        for seed in (0, 1):
            made.run("hu", value, seed, stage=stage)
            made.run("reversed", 0.5, seed, stage=stage)
    assert alone(higher_score(made.study(), HU, REVERSED)).text == YES
    assert alone(higher_score(made.study(), HU, REVERSED, stage="shared")).text == NO
    with pytest.raises(NotRunError, match="no stage 'published'; there are: tuned, shared"):
        higher_score(made.study(), HU, REVERSED, stage="published")


def test_a_group_is_found_by_its_overrides_and_a_rank_that_is_not_swept_is_not_asked_for(made):
    for seed in (0, 1):
        made.run("lora_sb", 0.4, seed, group=("rank=r8",))
        made.run("lora_sb", 0.8, seed, group=("rank=r16",))
        made.run("hu", 0.6, seed, group=("rank=r8",))
    study = made.study()
    assert alone(higher_score(study, {"method": "lora_sb", "rank": "r16"}, HU | {"rank": "r8"})).text == YES
    with pytest.raises(ReportError, match="fits several groups"):
        higher_score(study, {"method": "lora_sb"}, HU)
    with pytest.raises(NotRunError, match="no completed run of method=hu rank=r16 in p/s, stage tuned"):
        higher_score(study, HU | {"rank": "r16"}, HU | {"rank": "r8"})
    unswept = Maker(made.root / "other")
    assert alone(higher_score(pairs(unswept, (0.5, 0.5), (0.4, 0.4)), HU | {"rank": "r8"}, REVERSED)).text == YES


@pytest.mark.parametrize(
    ("best_a", "best_b", "text"),
    [(0.03, 0.004, YES), (0.004, 0.03, NO), (0.012, 0.01, UNDECIDED), (0.01, 0.01, UNDECIDED)],
)
def test_a_best_rate_is_the_vertex_of_its_curve(made, best_a, best_b, text):
    made.select("hu", best_a)
    made.select("reversed", best_b)
    found = larger_rate(made.study(), HU, REVERSED)
    assert (found.text, found.estimate, found.n) == (text, pytest.approx(best_a / best_b), 3)
    assert found.low < found.estimate < found.high


def test_a_flat_or_noisy_curve_decides_less(made):
    made.select("hu", 0.03, noise=0.6)
    made.select("reversed", 0.004)
    assert larger_rate(made.study(), HU, REVERSED).text == UNDECIDED


def test_one_selection_seed_decides_nothing(made):
    made.select("hu", 0.05, seeds=(100,))
    made.select("reversed", 0.002, seeds=(100,))
    found = larger_rate(made.study(), HU, REVERSED)
    assert (found.text, found.low) == (UNDECIDED, None)
    assert "one selection seed" in found.details


def test_a_best_rate_at_an_edge_is_only_bounded_on_one_side(made):
    made.select("hu", 1.0)
    made.select("reversed", 0.01)
    found = larger_rate(made.study(), HU, REVERSED)
    assert (found.text, found.high) == (YES, math.inf)
    assert "0.1, upper edge of the grid" in found.details
    both = Maker(made.root / "both")
    both.select("hu", 1.0)
    both.select("reversed", 2.0)
    assert larger_rate(both.study(), HU, REVERSED).text == UNDECIDED


def budgets(made, method, losses):
    """Final losses at budgets of 30, 60 and 120 steps, of three seeds."""
    for steps, loss in zip((30, 60, 120), losses, strict=True):
        for seed in range(3):
            group = (f"train.max_steps={steps}",)
            made.run(method, 0.5, seed, steps=steps, loss=loss * (1 + (seed - 1) / 100), group=group)


def test_steps_are_compared_between_budgets_that_have_ended(made):
    budgets(made, "lora_ga", (2.0, 1.0, 0.5))
    budgets(made, "hu", (4.0, 2.0, 1.0))
    study = made.study()
    found = fewer_steps(study, {"method": "lora_ga"}, HU)
    assert (found.text, found.estimate, found.n) == (YES, pytest.approx(0.5), 3)
    assert 0.45 < found.low < 0.5 < found.high < 0.55
    never = fewer_steps(study, HU, {"method": "lora_ga"})
    assert (never.text, never.estimate, never.low, never.high) == (NO, None, math.inf, math.inf)
    assert "more than 100%" in never.details


def ordered(made, losses):
    """Final losses of three methods at each rank, of three seeds."""
    for rank, of in losses.items():
        for method, loss in zip(("hu", "reversed", "lora_ga"), of, strict=True):
            for seed in range(3):
                made.run(method, 0.5, seed, loss=loss * (1 + (seed - 1) / 100), group=(f"rank={rank}",))
    return made.study()


def test_the_order_of_methods_is_the_same_where_every_two_lie_the_same_way_at_each_value(made):
    found = same_order(ordered(made, {"r4": (1.0, 2.0, 0.5), "r32": (0.6, 0.7, 0.5)}), "rank")
    assert (found.text, found.n, len(found.runs)) == (YES, 3, 18)
    assert "rank r4: LORA_GA < HU < REVERSED; rank r32: LORA_GA < HU < REVERSED" in found.details
    assert "differences depend on it: F(2, 12) = " in found.details
    assert "p <0.001" in found.details  # a factor of 2 is not one of 1.17


def test_two_methods_that_clearly_differ_both_ways_are_no_same_order_and_noise_is_undecided(made, tmp_path):
    crossed = same_order(ordered(made, {"r4": (1.0, 2.0, 0.5), "r32": (2.0, 1.0, 0.5)}), "rank")
    assert crossed.text == NO
    assert crossed.details.endswith("clearly both ways: HU and REVERSED")
    noise = same_order(ordered(Maker(tmp_path / "noise"), {"r4": (1.0, 1.002, 0.5), "r32": (1.002, 1.0, 0.5)}), "rank")
    assert noise.text == UNDECIDED
    assert "p = " in noise.details


def test_the_order_is_asked_of_methods_that_every_value_has(made):
    study = ordered(made, {"r4": (1.0, 2.0, 0.5), "r32": (1.0, 2.0, 0.5)})
    for rank in ("r4", "r32"):  # rows of a further axis are rows of their own
        made.run("pissa", 0.5, loss=0.4, group=(f"rank={rank}", "train.batch_size=8"))
    assert "PISSA 8 < LORA_GA < HU" in same_order(made.study(), "rank").details
    made.run("eva", 0.5, loss=0.1, group=("rank=r4",))
    assert "EVA" not in same_order(made.study(), "rank").details
    with pytest.raises(NotRunError, match=r"no two methods with a loss at the same two values of train\.max_steps"):
        same_order(study, "train.max_steps")


def test_without_budgets_curves_are_described_and_decide_nothing(made):
    # 1.5 lies halfway between steps 1 and 2: 1.5 of 4 steps; 1.5 s and 2.5 s before them of 4 s
    for seed in (0, 1):
        made.run("lora_ga", 0.5, seed, losses=[(1, 2.0), (2, 1.0), (4, 0.5)], init=2.5)
        made.run("hu", 0.5, seed, losses=[(1, 3.0), (2, 2.0), (4, 1.5)])
    found = fewer_steps(made.study(), {"method": "lora_ga"}, HU)
    assert (found.text, found.estimate, found.n) == (UNDECIDED, pytest.approx(0.375), 2)
    assert "38% [38%, 38%] of its steps and 100% [100%, 100%] of its seconds" in found.details
    assert found.details.endswith("; within one schedule, which decides nothing")


def test_a_loss_that_is_not_reached_is_said_and_has_no_mean(made):
    for seed, last in enumerate((0.5, 2.0)):
        made.run("lora_ga", 0.5, seed, losses=[(2, 3.0), (4, last)])
        made.run("hu", 0.5, seed, losses=[(2, 3.0), (4, 1.5)])
    found = fewer_steps(made.study(), {"method": "lora_ga"}, HU)
    assert (found.text, found.estimate) == (UNDECIDED, None)
    assert "does not reach the final eval loss of HU in 1 of 2 seeds; where it does, after 80%" in found.details
    assert fewer_steps(made.study(), HU, HU).estimate == 1.0


def test_the_slope_by_width_is_of_the_logarithms(made):
    # hu falls by half a decade for each decade of width, slope -1/2, reversed by a whole one.
    grid = [10 ** (-place / 2) for place in range(-1, 8)]
    for place, model in enumerate(("w10", "w100", "w1000")):
        for method, best in (("hu", 10 ** (-0.5 - place / 2)), ("reversed", 10 ** (-0.5 - place))):
            made.select(method, best, grid, model=model, group=(f"model={model}",))
    found = rate_by_width(made.study(), HU, REVERSED, {"w10": 10, "w100": 100, "w1000": 1000})
    assert (found.text, found.n, found.estimate) == (YES, 3, pytest.approx(0.5))
    assert 0.25 < found.low < 0.5 < found.high < 0.75
    assert found.details.startswith("slope by width 10, 100, 1000: HU -0.50")


def test_fewer_parameters_answers_by_the_score_and_counts(made):
    for seed in (0, 1):
        made.run("lora_sb", 0.6, seed, num_trainable=100)
        made.run("hu", 0.5, seed, num_trainable=4200)
    found = alone(fewer_parameters(made.study(), {"method": "lora_sb"}, HU))
    assert (found.text, found.estimate) == (YES, pytest.approx(10))
    assert "100 against 4,200 trainable parameters, 42 times fewer" in found.details
    assert fewer_parameters(made.study(), HU, {"method": "lora_sb"}).text == NO


def claims_of(tmp_path, text):
    path = tmp_path / "_claims.yaml"
    path.write_text(text)
    return path


ONE = """
- {id: one, paper: P, claim: C, source: abstract, study: p/s,
   kind: higher_score, a: {method: hu}, b: {method: reversed}}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: higher_score", "kind: better", "claim one: kind='better': unknown kind; known: higher_score"),
        ("source: abstract, ", "", "claim one: source is missing"),
        ("a: {method: hu}, ", "", "claim one: missing a required argument: .a.; higher_score takes a, b"),
        (
            "a: {method: hu}",
            "a: {method: hu}, width: 3",
            "'width'; higher_score takes a, b, stage, task, margin, endpoint",
        ),
        ("a: {method: hu}", "a: hu", "claim one: a='hu': input should be a valid dictionary"),
        ("- {", "{", "not a list of claims"),
        ("- {", "- {{", "claims.yaml: "),
    ],
)
def test_a_bad_claim_is_named(tmp_path, old, new, message):
    with pytest.raises(ReportError, match=message) as raised:
        read_claims(claims_of(tmp_path, ONE.replace(old, new)))
    assert "\n" not in str(raised.value)


def test_two_claims_of_one_id_are_refused(tmp_path):
    with pytest.raises(ReportError, match="id 'one' is given twice"):
        read_claims(claims_of(tmp_path, ONE + ONE))


def test_a_study_without_records_is_not_run_yet_and_the_command_says_how(tmp_path):
    (claim,) = read_claims(claims_of(tmp_path, ONE))
    (found,) = answers([claim], tmp_path / "results")
    assert found.text == NOT_RUN
    assert claims_list([(claim, found)]) == (
        "### P\n\n- (1) C **not run yet**. (`python -m bench.run -m +experiments=p/s`)\n"
    )


def test_a_study_that_lacks_one_method_is_not_run_yet_either(made, tmp_path):
    (claim,) = read_claims(claims_of(tmp_path, ONE))
    made.run("hu", 0.5)
    made.study()
    (found,) = answers([claim], tmp_path)
    assert (found.text, found.details) == (NOT_RUN, "no completed run of method=reversed in p/s, stage tuned")


def test_a_study_that_cannot_be_reported_is_no_answer(made, tmp_path):
    (claim,) = read_claims(claims_of(tmp_path, ONE))
    made.run("hu", status="failed")
    assert answers([claim], tmp_path)[0].text == "no answer"


def test_the_list_has_a_bullet_a_claim_and_the_csv_a_row(made, tmp_path):
    claims = read_claims(claims_of(tmp_path, ONE + ONE.replace("id: one", "id: two").replace("p/s", "p/other")))
    pairs(made, (0.7, 0.71, 0.72), (0.5, 0.5, 0.5))
    markdown = write_claims(claims, tmp_path, tmp_path)
    assert (tmp_path / "claims.md").read_text() == markdown
    heading, _, first, second = markdown.splitlines()[:4]
    assert heading == "### P"
    numbers = "+21 [+18.5, +23.5] points, n = 3, p < 0.001 (`python -m"
    assert first.startswith(f"- (1) C **yes**: HU 71, REVERSED 50; no loss is known. {numbers}")
    assert second == "- (2) C **not run yet**. (`python -m bench.run -m +experiments=p/other`)"
    rows = list(csv.DictReader((tmp_path / "claims.csv").read_text().splitlines()))
    assert [(row["id"], row["answer"], row["n"]) for row in rows] == [("one", "yes", "3"), ("two", NOT_RUN, "")]


def test_the_p_values_of_all_questions_on_scores_are_corrected_together_and_shared_runs_named(made, tmp_path):
    claims = read_claims(claims_of(tmp_path, ONE + ONE.replace("id: one", "id: two")))
    pairs(made, (0.70, 0.71, 0.73), (0.60, 0.58, 0.63))
    alone = answers(claims[:1], tmp_path)[0]
    one, two = answers(claims, tmp_path)
    assert (alone.p, alone.p_holm) == (one.p, one.p)
    assert one.p_holm == two.p_holm == pytest.approx(2 * one.p)
    assert sharing([one, two, Answer(NOT_RUN)]) == [(1,), (0,), ()]
    apart = [claims[0], claims[1].model_copy(update={"tier": "real"})]
    assert [found.p_holm for found in answers(apart, tmp_path)] == [one.p, one.p]
    assert "all 2 questions on scores," in write_claims(claims, tmp_path, tmp_path)
    assert "questions on scores of its tier (1 embedded, 1 real)," in write_claims(apart, tmp_path, tmp_path)
    assert "; same runs as 2 (`python" in claims_list(list(zip(claims, (one, two), strict=True)))


def test_the_suites_claims_can_be_read_and_each_names_a_paper_a_place_in_it_and_an_embedded_study():
    claims = read_claims(CLAIMS)
    of_papers = [claim for claim in claims if claim.paper != "This suite"]
    assert {study.partition("/")[0] for claim in claims for study in claim.studies} == {
        "lora_sb", "lora_ga", "impact_of_init", "asymmetry", "axes",
    }  # fmt: skip
    assert all("arXiv:" in claim.paper for claim in of_papers)
    assert len(of_papers) == 24
    assert all(study.endswith("_tiny") for claim in claims for study in claim.studies)


def test_the_command_prints_and_writes_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--results-dir", "results"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("**not run yet**") == len(read_claims(CLAIMS))
    assert (tmp_path / "results" / "claims.md").read_text() in printed


def test_the_command_names_a_bad_file_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    claims_of(tmp_path / "experiments", "a: 1")
    assert main([]) == 2
    assert re.match(r"error: .*claims.yaml: not a list of claims.*\n$", capsys.readouterr().err)


def test_every_claim_asks_for_rows_that_its_study_sweeps_and_knows_the_widths_of_its_models():
    for claim in read_claims(CLAIMS):
        content = yaml.safe_load((ROOT / "experiments" / f"{claim.studies[0]}.yaml").read_text())
        params = content["hydra"]["sweeper"]["params"]
        assert claim.arguments.get("axis", "method") in params
        for group in (claim.a or {}, claim.b or {}):
            for key, value in group.items():
                assert key not in params or value in params[key].split(","), claim.id
        widths = claim.arguments.get("widths", {})
        assert widths.keys() <= set(params.get("model", "").split(","))
        for model, width in widths.items():
            config = json.loads((ROOT / "bench" / "model" / "embedded" / model / "config.json").read_text())
            assert config["hidden_size"] == width


def test_a_run_whose_eval_loss_was_never_measured_is_not_asked(made):
    for seed in (0, 1):
        made.run("hu", 0.5, seed, losses=[(1, 2.0), (2, 1.0)])
        made.run("lora_ga", 0.5, seed, losses=[(1, None), (2, None)] if seed else [(1, 0.9), (2, 0.5)])
    assert fewer_steps(made.study(), {"method": "lora_ga"}, HU).n == 1
