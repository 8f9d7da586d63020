import pandas as pd
import pytest
from records import a_config, a_score, make_record
from scipy import stats

from bench.report.claims import Claim
from bench.report.figures import write_figures
from bench.report.figures.choice import Choice
from bench.report.papers.answers import NO, UNDECIDED, YES, NotRunError
from bench.report.papers.curvature_question import Regression, best_rate_by_curvature
from bench.report.read.curvature import constant, rates_and_curvatures
from bench.report.read.load import load_study
from bench.runs.record import write_record
from bench.study.plan_file import PlannedRun, StudyPlan, write_plan
from bench.study.search import rate_at

METHODS = ("hu", "pissa", "eva", "mica", "corda", "olora")


class Maker:
    """A study whose select stage has searched rates, with the curvature of each run."""

    def __init__(self, root):
        self.root, self.runs = root, []

    def method(self, name, place, plain, preconditioned, seeds=(100, 101), sides=(0.4, 0.4), identity=None):
        """Scores that are best at a place of the lattice and fall to `sides` at its neighbours."""
        for step, value in ((-1, sides[0]), (0, 0.5), (1, sides[1])):
            for seed in seeds if value is not None else ():
                rate = rate_at(place + step)
                run_id, config = f"{name}-{rate}-{seed}", a_config(name, seed, rate)
                record = make_record(run_id, "completed", name.upper(), config, identity or config)
                record.scores = [a_score(value, stderr=None)]
                record.curvature = plain and {"plain": plain, "preconditioned": preconditioned, "num_rows": 8}
                folder = self.root / "s" / run_id
                folder.mkdir(parents=True)
                write_record(folder, record)
                self.runs.append(PlannedRun("select", (f"method={name}",), (f"x={run_id}",), run_id))

    def study(self):
        write_plan(self.root / "s", StudyPlan("s", ("select",), tuple(self.runs)))
        return load_study(self.root, "s")


@pytest.fixture
def made(tmp_path):
    return Maker(tmp_path)


PLACES = (-10, -9, -8, -7, -6, -5)
NOISE = (1.1, 0.9, 1.05, 0.95, 1.0, 1.02)
SCATTER = (7.0, 90.0, 2.0, 300.0, 11.0, 40.0)  # has nothing to do with the rates


def test_rates_that_fall_as_one_over_the_preconditioned_eigenvalue_and_not_the_plain_one_are_yes(made):
    for name, place, noise, plain in zip(METHODS, PLACES, NOISE, SCATTER, strict=True):
        made.method(name, place, plain, noise * constant() / rate_at(place))
    found = best_rate_by_curvature([made.study()])
    assert (found.text, found.unit, found.n) == (YES, "in slope", 6)
    assert found.low < -1 < found.high < 0
    assert found.estimate == pytest.approx(-1, abs=0.1)
    assert "within a step of a 1-3-10 grid of 6 of 6 best rates" in found.details
    assert "off by a factor of 1.05 in the median and of 1.11 at worst (PISSA)" in found.details


def test_rates_that_do_not_fall_as_one_over_it_are_no(made):
    for name, place, noise, plain in zip(METHODS, PLACES, NOISE, SCATTER, strict=True):
        made.method(name, place, plain, noise * rate_at(place) ** -0.4)
    found = best_rate_by_curvature([made.study()])
    assert found.text == NO
    assert not found.low <= -1 <= found.high


def test_where_the_plain_eigenvalue_predicts_as_well_it_is_undecided(made):
    for name, place, noise in zip(METHODS, PLACES, NOISE, strict=True):
        made.method(name, place, noise * 3 / rate_at(place), noise * 12 / rate_at(place))
    assert best_rate_by_curvature([made.study()]).text == UNDECIDED


def test_few_groups_give_the_error_of_the_prediction_and_no_slope(made):
    for name, place in zip(METHODS[:3], PLACES, strict=False):
        made.method(name, place, 1.0, 4 * constant() / rate_at(place))
    found = best_rate_by_curvature([made.study()])
    assert (found.text, found.estimate, found.n) == (UNDECIDED, None, 3)
    assert "of 0 of 3 best rates, off by a factor of 4.00 in the median" in found.details
    assert "too high 0 times" in found.details


def test_a_best_rate_at_an_edge_and_a_group_without_curvature_are_left_out_and_counted(made):
    for name, place, plain in zip(METHODS[:4], PLACES, SCATTER, strict=False):
        made.method(name, place, plain, constant() / rate_at(place))
    made.method("corda", -7, 1.0, 100.0, sides=(None, 0.4))
    made.method("olora", -7, None, None)
    found = best_rate_by_curvature([made.study()])
    assert found.n == 4
    assert found.details.endswith("left out, at an edge of their grid or without curvature: 2")


def test_without_a_curvature_the_question_has_not_been_run(made):
    made.method("hu", -7, None, None)
    with pytest.raises(NotRunError, match="no group with a best learning rate"):
        best_rate_by_curvature([made.study()])


def test_the_regression_is_that_of_the_logarithms_with_students_interval():
    eigenvalues, rates = [10.0, 40.0, 90.0, 300.0, 1000.0], [0.1, 0.03, 0.012, 0.004, 0.001]
    found = Regression.of(eigenvalues, rates)
    known = stats.linregress(*(pd.Series(values).transform("log10") for values in (eigenvalues, rates)))
    assert found.slope == pytest.approx(known.slope)  # whatever the base
    assert (found.high - found.low) / 2 == pytest.approx(3.182446 * known.stderr)
    assert found.left_over > 1


def test_groups_of_several_studies_are_one_answer(made, tmp_path):
    other = Maker(tmp_path / "other")
    for number, (name, place, plain) in enumerate(zip(METHODS, PLACES, SCATTER, strict=True)):
        (made if number % 2 else other).method(name, place, plain, NOISE[number] * constant() / rate_at(place))
    found = best_rate_by_curvature([made.study(), other.study()])
    assert (found.text, found.n) == (YES, 6)


def test_a_claim_about_all_of_a_study_names_no_groups():
    said = {"id": "x", "paper": "p", "claim": "c", "source": "s", "study": "s", "kind": "best_rate_by_curvature"}
    assert Claim(**said).arguments == {}
    assert Claim(**said | {"study": ["s", "t"]}).studies == ["s", "t"]
    with pytest.raises(ValueError, match="fewer_steps is asked of one study, not of 2"):
        Claim(**said | {"study": ["s", "t"], "kind": "fewer_steps", "a": {"method": "x"}, "b": {"method": "y"}})
    with pytest.raises(ValueError, match="missing a required argument: 'a'"):
        Claim(**said | {"kind": "larger_rate"})


def test_the_figure_has_a_point_a_group_and_the_line_of_c_over_the_eigenvalue(made, tmp_path):
    for name, place in zip(METHODS[:3], PLACES, strict=False):
        made.method(name, place, 5.0, 2 * constant() / rate_at(place))
    study = made.study()
    assert len(rates_and_curvatures(study, study.selection)) == 3
    (png,) = write_figures(study, tmp_path / "figures", Choice(("curvature",), (("t", "m"),)))
    rows = pd.read_csv(png.with_suffix(".csv"))
    assert set(rows["method"]) == set(METHODS[:3])
    assert (rows["predicted"] / rows["best_rate"]).tolist() == pytest.approx([0.5] * 3, rel=0.02)
