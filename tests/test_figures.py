import csv
import itertools

import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb
from matplotlib.figure import Figure
from PIL import Image
from records import ENVIRONMENT, a_config, a_score, make_record, write_rows

from bench.report.figures import axis, cost, draw, gradient, loss, rates, retention, write_figures
from bench.report.palette import LOOKS, OTHER_COLOURS, look, order
from bench.report.read.curves import read_curves, target_loss
from bench.report.read.load import load_study
from bench.runs.record import read_record, write_record
from bench.study.plan_file import PlannedRun, StudyPlan, write_plan

LAYERS = ("model.layers.0.mlp.up", "model.layers.1.mlp.up", "model.layers.10.mlp.up")


DRAWN = ("test_every_figure_is_written_as_png_pdf_and_csv", "test_figures_and_their_data_are_equal_byte_for_byte_")


@pytest.fixture(autouse=True)
def files_are_drawn_where_they_are_looked_at(request, monkeypatch):
    """Rendering takes most of the time of a test that only reads names or CSV files."""
    if not request.node.originalname.startswith(DRAWN):
        monkeypatch.setattr(Figure, "savefig", lambda _figure, path, **_: Image.new("RGB", (1, 1)).save(path))


def write_run(
    root, method="hu", seed=0, *, value=0.5, losses=(3.0, 2.0, 1.0), scores=None, parameters=1000, rate=0.01, r=None,
    task="t", model="m", kind="causal", status="completed", measures=("cosine", "captured_energy"), init=0.5,
    retention=None,
):  # fmt: skip
    """A run of 3 steps, 100 tokens and 2 seconds each, its losses the eval losses too; returns its folder's name."""
    config = a_config(method, seed, rate, task, model)
    identity = (
        config | {"method": {"_target_": method}, "model": {"content": model}} | ({"rank": {"r": r}} if r else {})
    )
    name = "-".join(map(str, (method, r, task, model.replace("/", "."), f"{rate:g}", f"s{seed}")))
    record = make_record(name, status, method.upper(), config, identity, ENVIRONMENT)
    trained = method != "none"
    record.model = {"kind": kind}
    record.initialization = {
        "num_trainable": parameters if trained else 0,
        "num_head": 0,
        "layers": [{"name": name, "weight_norm": 1.0, "drift": 0.0} for name in LAYERS],
        "calibration": {"total_seconds": 1.0, "peak_bytes": 3 * 2**20},
    }
    record.training = {"num_steps": 3, "eval_loss": losses[-1]} if trained else {}
    record.phases = {
        "initialise": {"seconds": init, "peak_bytes": 2 * 2**20},
        "train": {"seconds": 6.0, "peak_bytes": 2**22},
    }
    record.scores = [a_score(value)] if scores is None else scores
    record.retention = {"loss_before": 1.0, "loss_after": retention} if retention and trained else None
    folder = root / "study" / name
    folder.mkdir(parents=True)
    write_record(folder, record)
    if trained and status == "completed":
        curve = [
            {"step": n, "loss": one, "eval_loss": one, "tokens": 100 * n, "seconds": 2.0 * n}
            for n, one in enumerate(losses, 1)
        ]
        write_rows(folder / "curve.jsonl", curve)
        aligned = [
            {"step": step, "layer": layer, "measure": measure, "value": 0.2 + 0.1 * seed + step / 100}
            for step, layer, measure in itertools.product((0, 3), ("all", *reversed(LAYERS)), measures)
        ]
        write_rows(folder / "alignment.jsonl", aligned)
    return name


def write_staged(root, methods=("hu", "lora_ga"), grid=(0.001, 0.01, 0.1), values=(0.5, 0.8, 0.6), **settings):
    """A study of the selection stage alone; of each method the largest rate fails under seed 101."""
    runs = []
    for method, (rate, value), seed in itertools.product(methods, zip(grid, values, strict=True), (100, 101)):
        status = "failed" if (rate, seed) == (grid[-1], 101) else "completed"
        shifted = value + (seed - 100) / 10
        run_id = write_run(root, method, seed, rate=rate, value=shifted, status=status, **settings)
        group = (f"method={method}", *(f"rank=r{r}" for r in [settings.get("r")] if r))
        runs.append(PlannedRun("select", group, (), run_id))
    return runs


def plan(root, runs):
    write_plan(root / "study", StudyPlan("study", tuple(dict.fromkeys(run.stage for run in runs)), tuple(runs)))


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def drawn(root):
    """The names of the figures that are written for what is below root."""
    folder = root / "figures"
    return {path.stem for path in write_figures(load_study(root, "study"), folder)}, folder


def cells_of(root):
    return load_study(root, "study").cells


def convergence_of(root):
    return loss.convergence(cells := cells_of(root), loss.convergence_data(cells, read_curves(cells)))


def scores_of(root):
    return cost.score_against_parameters(cells := cells_of(root), cost.score_data(cells))


def layers_of(root):
    return gradient.layers(cells := cells_of(root), gradient.layers_data(cells, gradient.read_measures(cells)))


def rates_of(root):
    (place, selections), = load_study(root, "study").selection_by_place.items()  # fmt: skip
    return rates.rates(selections, place, rates.rates_data(selections))


def test_every_figure_is_written_as_png_pdf_and_csv(tmp_path):
    for seed in range(2):
        write_run(tmp_path, "hu", seed, measures=("cosine", "captured_energy", "Z_A_norm", "Z_B_norm"))
    write_run(tmp_path, "none")
    names, folder = drawn(tmp_path)
    assert names == {"convergence", "target", "alignment", "layers", "features", "score", "cost"}
    assert {path.name for path in folder.iterdir()} == {f"{n}.{kind}" for n in names for kind in ("png", "pdf", "csv")}


def test_scores_are_drawn_against_the_one_numeric_key_that_is_swept(tmp_path):
    for method, r, value in itertools.product(("hu", "reversed"), (4, 8, 32), (0.25, 0.5)):
        write_run(tmp_path, method, int(4 * value), value=value * r / 32, r=r)
    write_run(tmp_path, "none")
    cells = cells_of(tmp_path)
    data = axis.axis_data(cells)
    assert list(zip(data["method"], data["value"], strict=True)) == [
        (method, r) for method in ("hu", "reversed") for r in (4, 8, 32)
    ]
    assert data["mean"].tolist() == pytest.approx([100 * 0.375 * r / 32 for r in (4, 8, 32)] * 2)
    assert (data["low"] < data["mean"]).all()
    (panel,) = axis.score_against_axis(cells, data).axes
    assert panel.get_xlabel() == "rank.r"
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["4", "8", "32"]
    assert sorted(panel.get_legend_handles_labels()[1]) == ["HU", "REVERSED"]
    assert cost.score_against_parameters(cells, cost.score_data(cells)) is None  # all have 1,000 parameters


def test_where_two_keys_or_none_are_swept_no_score_is_drawn_against_one(tmp_path):
    for r, rate in itertools.product((4, 8), (0.1, 0.2)):
        write_run(tmp_path, "hu", rate=rate, r=r)
    assert axis.swept_key(cells_of(tmp_path)) is None
    write_run(tmp_path / "other", "hu")
    write_run(tmp_path / "other", "reversed")
    cells = cells_of(tmp_path / "other")
    assert axis.score_against_axis(cells, axis.axis_data(cells)) is None
    assert cost.score_against_parameters(cells, cost.score_data(cells)) is not None


def test_forgetting_is_drawn_against_the_score_with_the_front_of_both(tmp_path):
    runs = {"hu": ((0.8, 1.5), (0.9, 1.7)), "pissa": ((0.8, 2.5), (0.8, 2.5)), "milora": ((0.5, 1.1), (0.6, 1.1))}
    for method, seeds in runs.items():
        for seed, (value, after) in enumerate(seeds):
            write_run(tmp_path, method, seed, value=value, retention=after)
    write_run(tmp_path, "none")
    write_run(tmp_path, "olora", value=0.99)
    names, folder = drawn(tmp_path)
    assert "retention" in names
    rows = {row["method"]: row for row in read_csv(folder / "retention.csv")}
    assert {name: row["on_front"] for name, row in rows.items()} == {"hu": "True", "pissa": "False", "milora": "True"}
    hu = {name: float(rows["hu"][name]) for name in ("forgetting", "forgetting_low", "forgetting_high", "mean")}
    # two seeds: 12.706 standard deviations over the root of two, 0.1414 / 1.4142
    assert hu == pytest.approx(
        {"forgetting": 0.6, "forgetting_low": -0.6706, "forgetting_high": 1.8706, "mean": 85.0}, rel=1e-4
    )
    figure = retention.score_against_forgetting(cells := cells_of(tmp_path), retention.retention_data(cells))
    assert sorted(
        line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() not in ("None", "_", "|")
    ) == pytest.approx([0.1, 0.6, 1.5])


def test_of_three_datasets_the_average_is_drawn_against_forgetting(tmp_path):
    scores = [a_score(value, task) for task, value in zip("abc", (0.2, 0.4, 0.9), strict=True)]
    write_run(tmp_path, "hu", scores=scores, retention=1.25)
    (row,) = retention.retention_data(cells_of(tmp_path)).to_dict("records")
    assert (row["dataset"], row["forgetting"]) == ("average", 0.25)
    assert row["mean"] == pytest.approx(50.0)


def test_the_front_holds_what_no_other_beats():
    points = [(1, 5), (2, 5), (2, 6), (3, 4), (float("nan"), 9), (1, 5)]
    assert draw.pareto_front(*zip(*points, strict=True)) == [True, False, True, False, False, True]


def test_what_the_records_lack_has_no_figure_and_is_no_error(tmp_path):
    folder = tmp_path / "study" / write_run(tmp_path, "hu", scores=[])
    (folder / "alignment.jsonl").unlink()
    assert drawn(tmp_path)[0] == {"convergence", "target", "cost"}
    (folder / "curve.jsonl").unlink()
    assert drawn(tmp_path)[0] == {"cost"}
    record = read_record(folder)
    record.phases = {}
    write_record(folder, record)
    assert drawn(tmp_path)[0] == set()


def test_each_task_and_model_has_figures_of_its_own(tmp_path):
    write_run(tmp_path, "hu", task="a", model="org/m", scores=[])
    write_run(tmp_path, "hu", task="b", model="m")
    names, _ = drawn(tmp_path)
    assert names >= {"convergence-a-org-m", "convergence-b-m", "score-b-m"}
    assert not names & {"convergence", "score", "score-a-org-m"}


def test_figures_and_their_data_are_equal_byte_for_byte_whatever_the_order_of_files(tmp_path):
    for root, step in (("one", 1), ("two", -1)):
        for method, seed in list(itertools.product(("hu", "lora_ga", "none"), (0, 1)))[::step]:
            write_run(tmp_path / root, method, seed, losses=(3.0, 2.0 + seed, 1.0))
        drawn(tmp_path / root)
    for one in sorted((tmp_path / "one" / "figures").iterdir()):
        assert one.read_bytes() == (tmp_path / "two" / "figures" / one.name).read_bytes(), one.name


def test_convergence_holds_mean_and_range_over_seeds_against_steps_tokens_and_seconds(tmp_path):
    write_run(tmp_path, "hu", 0, losses=(3.0, 2.0, 1.0), init=0.5)
    write_run(tmp_path, "hu", 1, losses=(5.0, 4.0, 3.0), init=1.5)
    row = next(r for r in read_csv(drawn(tmp_path)[1] / "convergence.csv") if r["loss"] == "eval")
    # seconds: 2 of training, 1 of calibration, 0.5 or 1.5 of factorisation
    assert row == {
        "method": "hu", "cell": "HU", "loss": "eval", "step": "1", "tokens": "100", "seconds": "4", "unsmoothed": "",
        "window": "", "mean": "4", "low": "3", "high": "5", "n": "2",
    }  # fmt: skip


def test_the_training_loss_is_smooth_and_a_long_curve_is_thinned_to_its_last_step(tmp_path):
    write_run(tmp_path, "hu", losses=[1.0, 2.0] * 500)
    data = loss.convergence_data(cells := cells_of(tmp_path), read_curves(cells))
    training = data[data["loss"] == "training"]
    assert (len(training), training["step"].iloc[-1]) == (200, 1000)
    assert training["mean"].iloc[100] == pytest.approx(1.5, abs=0.03)
    assert set(training["unsmoothed"]) == {1.0, 2.0}
    assert set(training["window"]) == {25}


def test_one_seed_has_no_band(tmp_path):
    write_run(tmp_path, "hu", 0)
    write_run(tmp_path, "lora_ga", 0)
    figure = convergence_of(tmp_path)
    assert not any(axis.collections for axis in figure.axes)
    assert figure.get_suptitle() == "t, m, 1 seed"
    write_run(tmp_path, "lora_ga", 1)
    figure = convergence_of(tmp_path)
    assert [len(axis.collections) for axis in figure.axes] == [1] * 6
    assert figure.get_suptitle() == "t, m, 2 seeds; bands: range over seeds"


def test_the_loss_of_an_encoder_is_not_one_per_token(tmp_path):
    write_run(tmp_path / "a", "hu")
    write_run(tmp_path / "b", "hu", kind="encoder")
    labels = [convergence_of(tmp_path / n).axes[0].get_ylabel() for n in "ab"]
    averaged = "\nmoving average of 5 steps"
    assert labels == [f"training loss (nats per token){averaged}", f"training loss{averaged}"]


def test_a_loss_that_is_not_finite_is_not_drawn(tmp_path):
    write_run(tmp_path, "hu", losses=(3.0, float("inf"), float("nan")))
    evaluated = [r for r in read_csv(drawn(tmp_path)[1] / "convergence.csv") if r["loss"] == "eval"]
    assert [(row["step"], row["mean"]) for row in evaluated] == [("1", "3")]


def test_the_target_is_what_loras_median_seed_came_to(tmp_path):
    for seed, last in enumerate((0.5, 1.0, 9.0)):
        write_run(tmp_path, "hu", seed, losses=(3.0, last))
    write_run(tmp_path, "lora_ga", losses=(3.0, 0.1))
    cells = cells_of(tmp_path)
    assert target_loss(cells, read_curves(cells)).loss == 1.0
    others = [cell for cell in cells if cell.method != "hu"]
    assert target_loss(others, read_curves(others)).loss == 0.1
    assert target_loss([], {}) is None


def test_seeds_that_never_reach_the_target_are_counted_not_dropped(tmp_path):
    write_run(tmp_path, "hu", 0, losses=(3.0, 2.0, 1.0))
    for seed, last in enumerate((0.0, 2.0, 2.0)):
        write_run(tmp_path, "lora_ga", seed, losses=(3.0, 2.0, last))
    write_run(tmp_path, "lora_xs", 0, losses=(3.0, 3.0, 3.0))
    _, folder = drawn(tmp_path)
    steps = {row["method"]: row for row in read_csv(folder / "target.csv") if row["quantity"] == "step"}
    assert [(m, row["reached"], row["n"], row["median"], row["values"]) for m, row in steps.items()] == [
        ("hu", "1", "1", "3", "3"),
        ("lora_ga", "1", "3", "", "2.5"),  # from 2 to 0 between steps 2 and 3, and never under two of three seeds
        ("lora_xs", "0", "1", "", ""),
    ]
    cells = cells_of(tmp_path)
    curves = read_curves(cells)
    aim = target_loss(cells, curves)
    figure = loss.target(cells, loss.target_data(cells, curves, aim), aim)
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert texts == ["not within 3 steps", "not within 7.5 s", "reached by", "1 of 1", "1 of 3", "0 of 1"]


def test_learning_rates_have_their_mean_range_failures_and_best(tmp_path):
    plan(tmp_path, write_staged(tmp_path, ("hu",)))
    names, folder = drawn(tmp_path)
    assert names == {"rates"}  # of the selection stage nothing else is drawn
    rows = read_csv(folder / "rates.csv")
    assert [(r["learning_rate"], r["mean"], r["low"], r["high"], r["n"], r["failed"], r["best"]) for r in rows] == [
        ("0.001", "55", "50", "60", "2", "0", "False"),
        ("0.01", "85", "80", "90", "2", "0", "True"),
        ("0.1", "60", "60", "60", "1", "1", "False"),
    ]


def test_failed_rates_stand_at_the_axis_and_best_ones_have_a_ring(tmp_path):
    plan(tmp_path, write_staged(tmp_path))
    axis = rates_of(tmp_path).axes[0]
    crosses = [line for line in axis.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[0.1], [0.1]]
    assert len({line.get_ydata()[0] for line in crosses}) == 2  # one over the other, none hidden
    rings = [line for line in axis.lines if line.get_markersize() == 10]
    assert [list(line.get_xdata()) for line in rings] == [[0.01], [0.01]]
    assert [line.get_color() for line in rings] == [LOOKS["hu"].color, LOOKS["lora_ga"].color]
    assert axis.get_xscale() == "log"


def test_a_method_without_a_look_of_its_own_is_not_as_blue_as_lora():
    hues = [rgb_to_hsv(to_rgb(colour))[0] * 360 for colour in OTHER_COLOURS]
    lora = rgb_to_hsv(to_rgb(LOOKS["hu"].color))[0] * 360
    assert min(abs(hue - lora) for hue in hues) > 60


def test_a_best_rate_at_the_edge_is_said_in_the_legend(tmp_path):
    plan(tmp_path, write_staged(tmp_path, ("hu",), values=(0.9, 0.8, 0.1)))
    legend = rates_of(tmp_path).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["HU (best at the edge)"]


def test_groups_of_one_method_share_its_colour_and_differ_by_the_line(tmp_path):
    plan(tmp_path, [run for r in (4, 8) for run in write_staged(tmp_path, r=r)])
    lines = [line for line in rates_of(tmp_path).axes[0].lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in lines] == [f"{name}, rank r{r}" for name in ("HU", "LORA_GA") for r in (4, 8)]
    assert lines[0].get_color() == lines[1].get_color() == LOOKS["hu"].color
    assert lines[0].get_linestyle() == lines[2].get_linestyle() != lines[1].get_linestyle()


def test_rows_of_one_method_that_are_points_differ_by_their_filling():
    first, second, other = draw.looks_of(["hu", "hu", "pissa"], ["r8", "r16", "r8"])
    assert (first.point["marker"], first.color) == (second.point["marker"], second.color)
    assert (first.point["fillstyle"], second.point["fillstyle"], other.point["fillstyle"]) == ("full", "none", "full")


def test_a_staged_study_draws_its_rates_and_the_figures_of_its_own_stage(tmp_path):
    runs = write_staged(tmp_path, ("hu",))
    tuned = write_run(tmp_path, "hu", 0, rate=0.01)
    plan(tmp_path, [*runs, PlannedRun("tuned", ("method=hu",), (), tuned)])
    names, folder = drawn(tmp_path)
    assert names == {"convergence", "target", "alignment", "layers", "score", "cost", "rates"}
    assert {row["n"] for row in read_csv(folder / "convergence.csv")} == {"1"}


def test_layers_stand_in_the_networks_order_under_short_names(tmp_path):
    write_run(tmp_path, "hu", 0)
    write_run(tmp_path, "hu", 1)
    rows = read_csv(drawn(tmp_path)[1] / "layers.csv")
    assert [row["layer"] for row in rows[:3]] == [LAYERS[0], LAYERS[0], LAYERS[1]]
    assert [(row["step"], row["mean"]) for row in rows[:3]] == [("0", "0.25"), ("3", "0.28"), ("0", "0.25")]
    assert {row["n"] for row in rows} == {"2"}
    figure = layers_of(tmp_path)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0 up", "1 up", "10 up"]
    assert figure.axes[0].get_ylim() == (3, 0)  # the first layer on top


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["a.0.output.dense", "a.0.attention.output.dense"], ["0 output.dense", "0 attention.output.dense"]),
        (["encoder.block.0.layer.0.q", "decoder.block.0.layer.0.q"], ["encoder 0 q", "decoder 0 q"]),
        (["classifier", "h.3.q"], ["classifier", "3 q"]),
    ],
)  # fmt: skip
def test_short_names_tell_layers_apart(names, short):
    assert list(gradient.short_names(names).values()) == short


def test_all_heatmaps_share_one_scale_of_colour(tmp_path):
    write_run(tmp_path, "hu", 0)
    write_run(tmp_path, "lora_ga", 3)
    figure = layers_of(tmp_path)
    assert [mesh.get_clim() for axis in figure.axes[:2] for mesh in axis.collections] == [(0.0, 1.0)] * 2


def test_many_layers_are_labelled_by_block():
    assert gradient._blocks(["0 q", "0 v", "1 q", "1 v", "head"]) == ["0", "", "1", "", "head"]


def test_feature_norms_are_those_over_all_layers(tmp_path):
    write_run(tmp_path, "hu", measures=("Z_A_norm", "Z_B_norm"))
    names, folder = drawn(tmp_path)
    assert "features" in names
    assert "alignment" not in names
    assert [(row["measure"], row["step"], row["mean"]) for row in read_csv(folder / "features.csv")] == [
        ("Z_A_norm", "0", "0.2"), ("Z_A_norm", "3", "0.23"), ("Z_B_norm", "0", "0.2"), ("Z_B_norm", "3", "0.23"),
    ]  # fmt: skip


def test_the_front_holds_what_nothing_smaller_beats(tmp_path):
    for method, parameters, value in (
        ("lora_xs", 10, 0.5), ("hu", 100, 0.6), ("lora_ga", 100, 0.7), ("pissa", 200, 0.65), ("none", 0, 0.9),
    ):  # fmt: skip
        write_run(tmp_path, method, parameters=parameters, value=value)
    rows = read_csv(drawn(tmp_path)[1] / "score.csv")
    assert {row["method"] for row in rows if row["on_front"] == "True"} == {"lora_xs", "lora_ga"}
    axis = scores_of(tmp_path).axes[0]
    (front,) = [line for line in axis.lines if line.get_label() == "Pareto front"]
    assert list(front.get_ydata()) == [50.0, 70.0]


def test_equal_counts_of_parameters_stand_at_their_place_a_few_points_apart(tmp_path):
    for method in ("hu", "lora_ga", "pissa"):
        write_run(tmp_path, method, parameters=1000)
    write_run(tmp_path, "eva", parameters=1050)
    axis = scores_of(tmp_path).axes[0]
    points = [line for line in axis.lines if line.get_marker() not in ("None", "_")]
    assert sorted(line.get_xdata()[0] for line in points) == [1000, 1000, 1000, 1050]
    place, *_ = axis.transData.transform((1000, 50))
    shown = [line.get_transform().transform((1000, 50))[0] - place for line in points if line.get_xdata()[0] == 1000]
    apart = 3 * axis.figure.dpi / 72  # points
    assert sorted(shown) == pytest.approx([-apart, 0, apart])
    low, high = axis.get_xlim()
    assert low < 1000 < 1050 < high


def test_the_score_figure_has_a_panel_for_each_task_in_its_unit_and_the_majority_class_as_a_thin_line(tmp_path):
    scores = [a_score(0.9, "sst2", majority=0.5), a_score(0.8, "sst2", "f1"), a_score(7.5, "wiki", "word_perplexity")]
    write_run(tmp_path, "hu", scores=scores + [a_score(0.5, f"t{number}") for number in range(4)])
    figure = scores_of(tmp_path)
    sst2, wiki = figure.axes[:2]
    assert [axis.get_title() for axis in figure.axes] == ["sst2", "wiki", "t0", "t1", "t2", "t3"]
    assert [axis.get_subplotspec().rowspan.start for axis in figure.axes] == [0, 0, 0, 1, 1, 1]
    assert [axis.get_ylabel() for axis in (sst2, wiki)] == ["acc (%)", "word_perplexity"]
    assert [list(line.get_ydata()) for line in sst2.lines if line.get_linestyle() == "--"] == [[50.0, 50.0]]
    assert 7.5 in [line.get_ydata()[0] for line in wiki.lines]
    assert "majority class" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(("many", "ticks"), [(900, ["900"]), (1500, ["1,000", "1,500"])])
def test_counts_of_parameters_within_one_power_of_ten_are_the_ticks_unless_they_would_overlap(tmp_path, many, ticks):
    write_run(tmp_path, "hu", parameters=many)
    write_run(tmp_path, "lora_ga", parameters=1000)
    axis = scores_of(tmp_path).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ticks


def test_the_cost_of_initialisation_counts_calibration_and_the_largest_peak(tmp_path):
    write_run(tmp_path, "hu", 0, init=0.5)
    write_run(tmp_path, "hu", 1, init=1.5)
    write_run(tmp_path, "none")
    (row,) = read_csv(drawn(tmp_path)[1] / "cost.csv")
    assert [row[k] for k in ("calibration_seconds", "factorisation_seconds", "seconds", "seconds_low", "n")] == [
        "1", "1", "2", "1.5", "2",
    ]  # fmt: skip
    assert (row["peak_mib"], row["training_peak_mib"]) == ("3", "4")


def test_the_legend_is_in_the_methods_order_with_their_markers(tmp_path):
    for method in ("lora_ga", "hu", "full_ft"):
        write_run(tmp_path, method)
    legend = convergence_of(tmp_path).legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["FULL_FT", "HU", "LORA_GA"]
    assert [line.get_marker() for line in legend.get_lines()] == ["s", "o", "^"]


def test_methods_of_one_label_are_told_apart(tmp_path):
    for method, last in (("lora_ga", 1.0), ("lora_ga_peft", 2.0)):
        path = tmp_path / "study" / write_run(tmp_path, method, losses=(3.0, last))
        record = read_record(path)
        record.label = "GA"
        write_record(path, record)
    rows = read_csv(drawn(tmp_path)[1] / "convergence.csv")
    last = {row["method"]: row["mean"] for row in rows if row["loss"] == "eval" and row["step"] == "2"}
    assert last == {"lora_ga": "1", "lora_ga_peft": "2"}


def test_each_method_has_its_own_look_one_that_nobody_knows_a_fixed_one_and_comes_last():
    assert len({one.color for one in LOOKS.values()}) == len({one.marker for one in LOOKS.values()}) == len(LOOKS)
    assert look("mine") == look("mine") != look("yours")
    others = [look(f"mine_{number}") for number in range(99)]
    assert not {(one.color, one.marker) for one in others} & {(one.color, one.marker) for one in LOOKS.values()}
    assert sorted(["mine", "lora_sb", "a_new_one", "none"], key=order) == ["none", "lora_sb", "a_new_one", "mine"]


def test_an_axis_of_ticks_reads_as_plain_numbers():
    assert [draw.number(value) for value in (2e-5, 0.003, 0.5, 20.0, 3000.0, 2e6, 7e9)] == [
        "2e-5", "0.003", "0.5", "20", "3,000", "2M", "7B",
    ]  # fmt: skip


def test_a_legend_never_is_wider_than_the_page(tmp_path):
    for number in range(12):
        write_run(tmp_path, f"a_method_of_a_long_name_{number}")
    figure = convergence_of(tmp_path)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
