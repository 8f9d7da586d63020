from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SHORT
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.methods.base import AdapterOptions, Rank
from bench.model.layers import evaluating
from bench.model.loss import mean_loss
from bench.model.pieces import cut
from bench.report.read.curvature import constant
from bench.run import run
from bench.runs import job
from bench.runs.folder import RunFolder, read_begun
from bench.runs.record_parts import CurvatureFacts
from bench.runs.verify import differences
from bench.tasks.examples import IGNORED, Example, collate
from bench.train import curvature, hessian
from bench.train.hessian import Hessian
from bench.verify import rerun
from matrices import random as some
from models import random_batch, tiny_bert, tiny_llama
from starts import start

SMALL = {"vocab_size": 13, "hidden_size": 6, "intermediate_size": 10, "num_hidden_layers": 1}
SMALL |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}  # of full fine-tuning 510 parameters
METHODS = sorted(path.stem for path in (Path(__file__).parents[1] / "conf" / "method").glob("*.yaml"))
C = constant()
RANK = Rank("r2", 2, 4.0)
WAYS = [("hu", False), ("pissa", False), ("asymmetry_b", False), ("mica", False), ("lora_sb", False)]
WAYS += [("full_ft", False), ("hu", True), ("pissa", True)]


def with_spectrum(values, seed=3):
    basis = torch.linalg.qr(some(len(values), len(values), seed=seed)).Q
    return basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T


def largest(matrix, num_products=10, tolerance=curvature.TOLERANCE, seed=0):
    return curvature.largest_eigenvalue(lambda v: matrix @ v, some(len(matrix), seed=seed), num_products, tolerance)


def test_ten_products_find_the_largest_eigenvalue_of_a_known_spectrum_and_not_the_largest_in_magnitude():
    M = with_spectrum([40.0, 7.0, *torch.linspace(-3, 2, 37).tolist(), -60.0])
    found = largest(M)
    assert found.value == pytest.approx(40.0, rel=1e-4)
    assert found.residual <= curvature.TOLERANCE
    assert found.num_products <= 10
    assert largest(-M).value == pytest.approx(60.0, rel=1e-4)


def test_the_residual_bounds_the_distance_to_an_eigenvalue_also_before_it_has_converged():
    values = torch.linspace(1, 20, 60).tolist()
    M = with_spectrum(values)
    few, more = largest(M, 4), largest(M, 40, tolerance=1e-9)
    assert few.num_products == 4
    assert few.residual > curvature.TOLERANCE
    assert min(abs(few.value - value) for value in values) <= few.residual * few.value
    assert few.value < more.value == pytest.approx(20.0, rel=1e-6)


def test_a_matrix_that_is_not_symmetric_is_refused():
    M = with_spectrum([9.0, 4.0, 1.0, -2.0, 0.5])
    M[0, 1:] += 1.0
    with pytest.raises(ValueError, match="not symmetric"):
        largest(M)


def test_a_start_in_an_invariant_subspace_ends_there():
    M = torch.diag(torch.tensor([5.0, 3.0, 1.0], dtype=torch.float64))
    found = curvature.largest_eigenvalue(lambda v: M @ v, torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64), 10)
    assert (found.value, found.residual, found.num_products) == (3.0, 0.0, 1)


def test_the_preconditioned_eigenvalue_ignores_the_size_of_the_loss_and_scales_as_one_over_the_tensors():
    H, g = with_spectrum([9.0, 4.0, 1.0, -2.0, 0.5]), some(5, seed=1)

    def of(H, g):
        product = curvature.preconditioned(lambda v: H @ v, curvature.adam_scale(g))
        return curvature.largest_eigenvalue(product, some(5), 5, 0.0).value

    D = g.abs() + g.square().mean().sqrt()
    assert of(H, g) == pytest.approx(torch.linalg.eigvals(H / D[:, None]).real.max().item())  # D^-1 H is similar
    assert of(100 * H, 100 * g) == pytest.approx(of(H, g))
    assert of(H / 16, g / 4) == pytest.approx(of(H, g) / 4)  # tensors 4 times as large: a rate 4 times as large


@pytest.mark.parametrize(
    ("eigenvalue", "rate"), [(438, 1.8e-2), (3711, 1.8e-3), (7.7e3, 1e-3), (55.5, 0.18), (0.5, 18.0), (5e5, 1.8e-5)]
)
def test_the_centre_is_on_the_lattice_of_four_rates_a_decade(eigenvalue, rate):
    assert curvature.centre(7.7, eigenvalue) == rate
    assert f"{rate:.1e}"[:3] in {"1.0", "1.8", "3.2", "5.6"}


def begun(compose_method, name, use_dora=False, model=None, targets=("q_proj", "down_proj")):
    """A small model started by a method, and a batch."""
    model = model or tiny_llama(**SMALL)
    batch = random_batch(2, 7, vocabulary=13)
    options = AdapterOptions(use_dora=use_dora, loraplus_lr_ratio=None)
    found = start(model, compose_method(name), RANK, targets, [batch], options)
    return found, batch


def dense(model, batch):
    """The gradient and the Hessian of the mean loss by torch.autograd.functional, in the trained tensors."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss(*values):
        moved = dict(zip(trained, values, strict=True))
        call = lambda **given: torch.func.functional_call(model, moved, (), given)  # noqa: E731
        return mean_loss(model, batch, call=call)

    with evaluating(model), sdpa_kernel(SDPBackend.MATH):
        values = tuple(trained.values())
        gradient = torch.autograd.functional.jacobian(loss, values)
        blocks = torch.autograd.functional.hessian(loss, values)
    sizes = [value.numel() for value in values]
    rows = [torch.cat([b.reshape(n, m) for b, m in zip(row, sizes, strict=True)], dim=1)
            for row, n in zip(blocks, sizes, strict=True)]  # fmt: skip
    return torch.cat([part.flatten() for part in gradient]), torch.cat(rows)


@pytest.mark.parametrize(("method", "use_dora"), WAYS, ids=str)
def test_both_eigenvalues_are_those_of_the_dense_hessian(compose_method, method, use_dora):
    found, batch = begun(compose_method, method, use_dora)
    model = found.model
    g, H = dense(model, batch)
    with evaluating(model), sdpa_kernel(SDPBackend.MATH):
        of_model = Hessian(model, [batch])
        D = curvature.adam_scale(of_model.gradient())
        v0 = some(len(g)).float()
        plain = curvature.largest_eigenvalue(of_model.product, v0, 30, 1e-4)
        scaled = curvature.largest_eigenvalue(curvature.preconditioned(of_model.product, D), v0, 30, 1e-4)
    torch.testing.assert_close(of_model.gradient(), g, rtol=1e-4, atol=1e-6)
    root = (g.abs() + g.square().mean().sqrt()).rsqrt()
    for value, matrix in ((plain, H), (scaled, root[:, None] * H * root)):
        assert value.value == pytest.approx(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1].item(), rel=1e-4)


def test_products_add_over_the_pieces_of_a_batch(compose_method):
    found, _ = begun(compose_method, "hu")
    batch = random_batch(3, 9, vocabulary=13)
    batch["labels"][1, 3:] = IGNORED  # pieces count by their label tokens
    pieces = [cut(batch, [0, 2]), cut(batch, [1])]
    with evaluating(found.model), sdpa_kernel(SDPBackend.MATH):
        whole, parts = Hessian(found.model, [batch]), Hessian(found.model, pieces)
        v = some(len(whole.gradient())).float()
        torch.testing.assert_close(parts.gradient(), whole.gradient(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(parts.product(v), whole.product(v), rtol=1e-4, atol=1e-5)


def task_of(num_examples, tokens=7, calibration_ids=()):
    batch = random_batch(num_examples, tokens, vocabulary=13)
    examples = [Example(row.tolist(), [IGNORED, *row[1:].tolist()]) for row in batch["input_ids"]]
    return SimpleNamespace(train=examples, pad_token_id=0, calibration_ids=list(calibration_ids))


def measured(found, task, num_rows=8, seed=0, **options):
    return hessian.measure(found.model, found.layers, task, num_rows, seed, **options)


def test_nothing_of_the_run_is_changed_by_it(compose_method):
    model = tiny_llama(**SMALL, attention_dropout=0.5)
    found, _ = begun(compose_method, "hu", model=model)
    found.model.train()
    found.model.get_submodule("base_model.model.lm_head").eval()
    before = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
    modes = {name: module.training for name, module in found.model.named_modules()}
    state = torch.get_rng_state()
    first, again = measured(found, task_of(20)), measured(found, task_of(20))
    assert first == again  # no dropout
    assert first.reason is None
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in found.model.named_modules()} == modes
    assert all(parameter.grad is None for parameter in found.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.model.state_dict().items())


def test_the_record_has_both_values_with_their_residuals_products_and_rows(compose_method):
    found, _ = begun(compose_method, "pissa")
    facts = measured(found, task_of(20), num_rows=5)
    assert (facts.num_rows, facts.dtype, facts.reason) == (5, "float32", None)
    assert facts.plain > 0
    assert facts.preconditioned > 0
    for name in ("plain", "preconditioned"):
        assert facts.num_products[name] <= hessian.NUM_PRODUCTS
        assert facts.residuals[name] <= curvature.TOLERANCE or facts.num_products[name] == hessian.NUM_PRODUCTS
    assert measured(found, task_of(20), num_rows=5, seed=1).plain != facts.plain


def test_its_rows_are_not_those_of_the_calibration_while_there_are_others(compose_method, monkeypatch):
    found, _ = begun(compose_method, "hu")
    taken = []
    monkeypatch.setattr(hessian, "collate", lambda examples, pad: taken.append(examples) or collate(examples, pad))
    task = task_of(12, calibration_ids=range(8))
    for num_rows in (4, 6):
        measured(found, task, num_rows=num_rows)
    calibration = task.train[:8]
    assert not any(example in calibration for example in taken[0])
    assert sum(example in calibration for example in taken[1]) == 2


def test_with_loraplus_the_rate_of_b_is_part_of_the_preconditioner(compose_method):
    batch = random_batch(2, 7, vocabulary=13)
    values = {}
    for ratio in (None, 4.0):
        options = AdapterOptions(use_dora=False, loraplus_lr_ratio=ratio)
        begun_so = start(tiny_llama(**SMALL), compose_method("hu"), RANK, ("q_proj",), [batch], options)
        values[ratio] = measured(begun_so, task_of(8)).preconditioned
    g, H = dense(begun_so.model, cut(collate(task_of(8).train, 0), range(8)))
    fast = [torch.full((p.numel(),), 4.0 if "lora_B" in name else 1.0)
            for name, p in begun_so.model.named_parameters() if p.requires_grad]  # fmt: skip
    root = (torch.cat(fast) / (g.abs() + g.square().mean().sqrt())).sqrt()
    assert values[4.0] == pytest.approx(torch.linalg.eigvalsh(root[:, None] * H * root)[-1].item(), rel=1e-2)
    assert values[4.0] > 1.5 * values[None]


def test_half_precision_weights_are_computed_in_float32_and_left_as_they_were(compose_method):
    found, _ = begun(compose_method, "hu", model=tiny_llama(**SMALL).bfloat16())
    before = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
    facts = measured(found, task_of(8))
    assert (facts.dtype, facts.reason) == ("float32", None)
    for name, tensor in found.model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_half_precision_weights_that_have_no_room_in_float32_are_computed_as_they_are(compose_method, monkeypatch):
    found, _ = begun(compose_method, "hu", model=tiny_llama(**SMALL).bfloat16())
    monkeypatch.setattr(hessian, "FLOAT32_SHARE", 0.0)
    facts = measured(found, task_of(8))
    assert facts.dtype == "bfloat16" or facts.reason


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient


def test_what_cannot_be_measured_is_recorded_with_its_reason(compose_method, monkeypatch):
    found, _ = begun(compose_method, "hu")
    assert "fsdp" in measured(found, task_of(8), sharded=True).reason
    with monkeypatch.context() as patch:
        patch.setattr(hessian, "_free_bytes", lambda device: 100)
        assert "GB for" in measured(found, task_of(8)).reason
    found.layers[0].module.register_forward_hook(lambda module, args, output: OnceDifferentiable.apply(output))
    facts = measured(found, task_of(8))
    assert "not symmetric" in facts.reason  # torch.autograd.grad takes the operation for a constant, without an error
    assert facts.plain is facts.preconditioned is None


def test_a_batch_that_does_not_fit_is_halved(compose_method, monkeypatch):
    found, _ = begun(compose_method, "hu")
    whole = measured(found, task_of(8))
    plain, sizes = Hessian.__init__, []

    def narrow(self, model, pieces):
        sizes.append(max(len(piece["input_ids"]) for piece in pieces))
        if sizes[-1] > 2 or "position_ids" in pieces[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        plain(self, model, pieces)

    monkeypatch.setattr(Hessian, "__init__", narrow)
    halved = measured(found, task_of(8))
    assert sizes[-1] == 2
    assert halved.preconditioned == pytest.approx(whole.preconditioned, rel=1e-3)


def test_a_classification_head_is_among_the_trained_tensors(compose_method):
    model = tiny_bert()
    batch = {"input_ids": torch.randint(4, 50, (8, 6)), "attention_mask": torch.ones(8, 6, dtype=torch.long)}
    batch["labels"] = torch.arange(8) % 2
    found = start(model, compose_method("hu"), RANK, ("query",), [batch])
    task = SimpleNamespace(pad_token_id=0, calibration_ids=[])
    task.train = [Example(row.tolist(), i % 2) for i, row in enumerate(batch["input_ids"])]
    with_head = measured(found, task)
    assert with_head.reason is None
    found.model.get_submodule("base_model.model.classifier").requires_grad_(False)
    assert measured(found, task).plain < with_head.plain


def test_a_rate_follows_from_it_and_the_identity_stays_as_it_was_given(compose_run):
    from bench.config import Run
    from bench.runs import assemble

    cfg = compose_run("train.learning_rate=auto")
    known, rate = cfg.with_curvature(CurvatureFacts(preconditioned=438.0)), curvature.centre(C, 438)
    assert (known.schedule.learning_rate, known.learning_rates.peak) == (rate, rate)
    assert (cfg.learning_rates.peak, cfg.rate, known.rate) == (0.0, "auto", f"{rate:g}")
    assert known.run_id == cfg.run_id
    assert cfg.identity["train"]["learning_rate"] == "auto"
    assert cfg.identity["train"]["curvature_constant"] == C
    assert cfg.identity["measure"]["curvature_rows"] == 8
    record = assemble.failed(known, ValueError("no"), "")
    assert record.config.train.learning_rate == rate
    assert record.config.learning_rate_source.startswith(f"auto: {C:g} / 438, ")
    again = Run.from_record(record)
    assert (again.run_id, again.rate, again.learning_rate_source) == (cfg.run_id, "auto", None)
    assert assemble.failed(cfg, ValueError("no"), "").config.train.learning_rate is None


def test_a_run_with_a_given_rate_has_the_id_that_it_had_before_curvature_was_measured(compose_run):
    one = compose_run()
    other = compose_run("measure.curvature_rows=0", "train.curvature_constant=5")
    assert one.run_id == other.run_id
    assert "curvature" not in str(one.identity)
    autos = {compose_run("train.learning_rate=auto", f"train.curvature_constant={c}").run_id for c in (C, 5)}
    assert len(autos) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["measure=none"], "measure.curvature_rows=8"),
        (["train.curvature_constant=null"], "train.curvature_constant"),
        (["train.parallel=fsdp"], "train.parallel=ddp"),
        (["train.curvature_constant=-1"], "greater than 0"),
    ],
)
def test_auto_is_refused_where_no_curvature_is_measured(compose_run, overrides, message):
    with pytest.raises(ValueError, match=message):
        compose_run("train.learning_rate=auto", *overrides)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (CurvatureFacts(reason="no second derivative"), "no second derivative"),
        (CurvatureFacts(preconditioned=-0.5), "eigenvalue is -0.5"),
    ],
)
def test_auto_without_a_curvature_that_gives_a_rate_is_an_error_that_says_so(compose_run, found, message):
    with pytest.raises(ValueError, match=f"{message}.*give a rate"):
        compose_run("train.learning_rate=auto").with_curvature(found)
    assert compose_run().with_curvature(found).resolved_rate is None
    assert compose_run("method=none", "train.learning_rate=auto").with_curvature(found).resolved_rate is None


AUTO = ("train.learning_rate=auto", "measure.curvature_rows=2")


def test_measuring_changes_no_other_number_of_a_run(run_cell):
    (without, _), (record, _) = run_cell(), run_cell("measure.curvature_rows=2")
    assert record.run_id == without.run_id
    assert without.curvature is None
    assert "curvature" not in without.phases
    assert record.curvature.num_rows == 2
    assert record.phases["curvature"].seconds > 0
    assert record.files["trained.safetensors"] == without.files["trained.safetensors"]


def test_a_run_with_auto_trains_at_the_rate_that_follows_and_is_repeated_to_the_bit(run_cell, tmp_path, capsys):
    record, cell = run_cell(*AUTO)
    rate = curvature.centre(C, record.curvature.preconditioned)
    assert record.config.train.learning_rate == rate
    assert max(row["learning_rate"] for row in cell.rows("curve.jsonl")) == rate
    told = [line for line in capsys.readouterr().out.splitlines() if "learning_rate" in line]
    assert len(told) == 1
    assert told[0].startswith(f"train.learning_rate={rate:g} is auto: {C:g} / ")
    assert told[0].endswith("the centre of a grid, and not a tuned rate")
    assert differences(cell.path, rerun(cell.path, tmp_path / "again")) == []


def test_a_method_that_builds_in_its_rate_is_measured_at_a_rate_of_zero_and_started_again(run_cell):
    record, _ = run_cell("method=lora_sb", *AUTO)
    rate = record.config.train.learning_rate
    given, _ = run_cell("method=lora_sb", f"train.learning_rate={rate}")
    assert record.initialization.layers == given.initialization.layers
    assert record.files["trained.safetensors"] == given.files["trained.safetensors"]
    assert record.initialization.layers[0].lora_R_norm > 0


def test_a_resumed_run_keeps_the_rate_and_does_not_measure_again(compose_run, tmp_path, monkeypatch):
    cfg = compose_run(*SHORT, *AUTO, f"results_dir={tmp_path}")
    job.execute(replace(cfg, run=replace(cfg.run, stop_at_step=2)), run, "[1/1]")
    folder = RunFolder.of(cfg)
    kept = read_begun(folder.workspace)["curvature"]
    monkeypatch.setattr(hessian, "measure", None)  # not called
    job.execute(cfg, run, "[1/1]")
    record = folder.record
    assert [attempt["from_step"] for attempt in record.attempts] == [0, 2]
    assert record.curvature.model_dump() == kept["facts"]
    assert record.phases["curvature"].seconds == kept["cost"]["seconds"]
    assert record.config.train.learning_rate == curvature.centre(C, record.curvature.preconditioned)


@pytest.mark.parametrize(("method", "flag"), [(name, name == "lora_sb") for name in METHODS])
def test_a_method_says_whether_its_start_depends_on_the_learning_rate(compose_method, method, flag):
    chosen = compose_method(method)
    assert chosen.reads_learning_rates == flag
    if not chosen.has_adapter:
        return
    batch = random_batch(4, 7, vocabulary=13)
    rates = [(0.0, 0.0, 0.0), (0.1, 0.02, 0.01)]
    starts = [start(tiny_llama(**SMALL), chosen, Rank("r2", 2, 4.0), ("q_proj",), [batch], rates=r) for r in rates]
    (name,) = starts[0].factors
    one, other = (begun_so.factors[name].product() for begun_so in starts)
    assert torch.equal(one, other) != flag
