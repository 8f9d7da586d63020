"""Every architecture with every kind of start, from the checkpoint to stock PEFT, each stage against its definition."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import peft
import pytest
import torch
from architectures import PAD, ZOO
from conftest import composed_run

from bench.init.calibrate import CalibrationRequest, calibrate
from bench.init.stage import initialize
from bench.methods.base import Factors
from bench.model import weights
from bench.model.export import restored, save_adapter
from bench.model.images import PIXELS
from bench.model.kinds import CLASSIFIERS, auto_class
from bench.model.layers import heads, target_layers
from bench.process.phases import Phases
from bench.run import run
from bench.runs.attempt import Attempt
from bench.runs.folder import RunFolder
from bench.score import check, score
from bench.tasks import Task
from bench.tasks.examples import IGNORED, collate
from bench.train import train
from bench.train.probe import AlignmentProbe
from models import calls_of, gradients_by_autograd

ROOT = Path(__file__).parents[2]
METHODS = ("hu", "lora_ga", "lora_sb", "pissa", "eva", "corda", "full_ft")
SHORT = (
    "rank.r=3 rank.lora_alpha=6 train.max_steps=2 train.batch_size=4 train.warmup_steps=0 train.learning_rate=1e-2 "
    "train.eval_steps=0 measure.alignment_steps=1 task.eval_samples=8 task.calibration_samples=4 "
    "task.calibration_batch_size=4 task.probe_samples=4 task.validation_samples=16 score.limit=4 score.batch_size=3 "
    "score.split=validation svd.solver=exact track=none"
).split()
TASKS = {
    "causal": ["task=gsm_tiny"],
    "seq2seq": ["task=commonsense_tiny"],
    "encoder": ["task=glue_tiny", "task.train=[entailment_tiny]", "task.score=[entailment_tiny]"],
    "vision": ["task=digits"],
}

# What is refused: architecture, method, more of the command line, and the words.
CONV1D = "GPT2LMHeadModel has no linear layer that can be adapted: .* is of a Conv1D"
CONV2D = "ResNetForImageClassification has no linear layer that can be adapted: .* is of a Conv2d"
NO_LINEAR = {"gpt2": CONV1D, "resnet": CONV2D}
REFUSED = [(name, method, (), words) for name, words in NO_LINEAR.items() for method in METHODS]
REFUSED += [
    ("mamba", "hu", ("model.target_modules=null",), "'out_proj' is incompatible with Mamba-based models"),
    ("llama", "hu", ("model.target_modules=[q_proj,xyz]",), "target_modules=\\['xyz'\\] matches no linear layer"),
    ("gemma3", "hu", ("model.target_modules=[lm_head]",), "lm_head shares its weight with model.embed_tokens.weight"),
]
CASES = [
    pytest.param(name, method, marks=[] if (i + j) % 2 == 0 else pytest.mark.faults)
    for (i, name), (j, method) in itertools.product(enumerate(ZOO), enumerate(METHODS))
    if name not in NO_LINEAR
]
CASES += [pytest.param("bert", "giva")]  # vectors between and behind the factors


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """An architecture's name -> the folder of its checkpoint, written once."""
    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = ZOO[name].save(tmp_path_factory.mktemp(name))
        return folders[name]

    return folder


@pytest.fixture
def cell(checkpoint):
    """An architecture and a method -> the validated run."""

    def composed(name, method, *more):
        model = ["model=local", f"model.path={checkpoint(name)}", *ZOO[name].overrides]
        return composed_run(f"method={method}", *TASKS[ZOO[name].kind], *SHORT, *model, *more)

    return composed


@dataclass
class Begun:
    """A run up to its first step."""

    loaded: object
    task: object
    start: object
    pretrained: dict  # weights before the start
    logits: torch.Tensor


def begin(cfg):
    loaded = cfg.model.load(cfg.task.num_labels, cfg.seed)
    task = cfg.task.prepare(loaded, cfg.seed, cfg.score.split, cfg.trains)
    check(loaded, task.evaluations, cfg.score)
    pretrained = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    logits = logits_of(loaded.model, task.probe)
    return Begun(loaded, task, initialize(cfg, loaded, task, Phases()), pretrained, logits)


@torch.no_grad()
def logits_of(model, batch):
    """The logits that count: of each row of an encoder, else of each token that is attended or predicted."""
    model.eval()
    logits = model(**batch).logits
    if logits.dim() == 2:
        return logits
    return logits[batch["labels"] != IGNORED if model.config.is_encoder_decoder else batch["attention_mask"].bool()]


def half_of(batch):
    return {name: tensor[: len(tensor) // 2] for name, tensor in batch.items()}


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_run_keeps_each_of_its_promises(cell, tmp_path, name, method):
    cfg = cell(name, method)
    run = begin(cfg)
    model = run.start.model
    scale = run.logits.abs().max()
    if cfg.method.keeps_function or method == "full_ft":
        torch.testing.assert_close(logits_of(model, run.task.probe), run.logits, rtol=0, atol=1e-4 * scale.item())
    promised = promised_parameters(cfg, run.start, run.loaded.model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == promised
    probe = AlignmentProbe(cfg.measure, run.start.layers, run.start.factors, run.start.weight_norms, run.task.probe)
    assert_alignment_is_its_definition(model, run.start.layers, probe)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, run.task, cfg.train, None, cfg.seed, probe, Attempt(RunFolder.of(cfg), scratch=tmp_path))
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= promised
    assert {n for n in promised if "lora_" in n} <= moved
    assert_the_export_is_the_trained_model(cfg, run, tmp_path)


def promised_parameters(cfg, start, model):
    """Names of the parameters that the method says it trains: its parts of every adapter, all weights, and the head."""
    names = dict(start.model.named_parameters())
    if "weight" in cfg.method.trains:
        return set(names)
    new = {n for n in names if "lora_" not in n and any(f".{head}." in f".{n}" for head in heads(model))}
    parts = [f".{part}." for part in cfg.method.trains]
    return new | {n for n in names if any(part in n for part in parts)}


def assert_alignment_is_its_definition(model, layers, probe):
    """Each layer's cosine of W's gradient with the direction in which its tensors' gradients move W, by autograd."""
    rows = {(row.layer, row.measure): row.value for row in probe.measure(model, 0)}
    assert len(rows) == len(probe.rows), "more than one row of a layer and a measure"
    model.eval()
    frozen = [p for p in model.parameters() if not p.requires_grad]
    for parameter in model.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    model(**half_of(probe.batch)).loss.backward()
    together = dict.fromkeys(("product", "induced", "full"), 0.0)
    for layer in layers:
        G = layer.weight.grad
        parts = layer.parameters()
        induced = torch.zeros_like(G)
        if "weight" in layer.trains:
            induced = G
        elif layer.trains:
            values = {part: p.detach() for part, p in parts.items()}
            steps = {part: p.grad if part in layer.trains else torch.zeros_like(p) for part, p in parts.items()}
            induced = layer.scaling * torch.func.jvp(lambda v: Factors(**v).product(), (values,), (steps,))[1]
        product, size, full = (induced * G).sum(), induced.norm(), G.norm()
        expected = (product / (size * full)).item() if size * full > 0 else None
        assert rows[layer.name, "cosine"] == (None if expected is None else pytest.approx(expected, abs=1e-3)), (
            layer.name
        )
        assert rows[layer.name, "gradient_norm"] == pytest.approx(full.item(), rel=1e-3), layer.name
        for key, value in (("product", product), ("induced", size.square()), ("full", full.square())):
            together[key] += value.item()
    expected = together["product"] / (together["induced"] * together["full"]) ** 0.5
    assert rows["all", "cosine"] == pytest.approx(expected, abs=1e-3)
    model.zero_grad()
    for parameter in frozen:
        parameter.requires_grad_(False)


def assert_the_export_is_the_trained_model(cfg, run, folder):
    """Stock PEFT over the checkpoint, or the whole weights, give the trained model's logits."""
    trained = logits_of(run.start.model, run.task.probe)
    path = folder / "weights.safetensors"
    weights.save(run.start.model, run.start.layers, run.start.factors, path)
    labels = {"num_labels": cfg.task.num_labels} if run.loaded.kind in CLASSIFIERS else {}
    auto = auto_class(run.loaded.kind)
    to = folder / "export"
    if cfg.method.has_adapter:
        num_labels = labels.get("num_labels")
        save_adapter(path, cfg.model, num_labels, cfg.method.keeps_function, cfg.adapter.use_dora, to)
        base = auto.from_pretrained(
            cfg.model.path, attn_implementation=cfg.model.attention, ignore_mismatched_sizes=True, **labels
        )
        base.config.pad_token_id = PAD
        exported = peft.PeftModel.from_pretrained(base, str(to))
    else:
        fresh = cfg.model.load(cfg.task.num_labels, cfg.seed)
        found = restored(path, fresh, cfg.model.target_modules, cfg.method, cfg.rank, cfg.adapter)
        found.save_merged(to)
        exported = auto.from_pretrained(to, attn_implementation=cfg.model.attention)
    found = logits_of(exported, run.task.probe)
    torch.testing.assert_close(found, trained, rtol=0, atol=1e-3 * trained.abs().max().item())


@pytest.mark.parametrize("name", [name for name in ZOO if name not in NO_LINEAR])
def test_gradients_and_covariances_are_those_of_autograd(cell, name):
    cfg = cell(name, "hu")
    loaded = cfg.model.load(cfg.task.num_labels, cfg.seed)
    task = cfg.task.prepare(loaded, cfg.seed, cfg.score.split, cfg.trains)
    model, (batch,) = loaded.model, task.calibration
    layers = target_layers(model, cfg.model.target_modules)
    covariances = ("input_covariance", "label_covariance", "token_covariance", "output_covariance")
    request = CalibrationRequest(frozenset({"gradient", "block_dimensions", *covariances}))
    found = calibrate(model, layers, [batch], request)
    for key, sides in found.block_dimensions.items():  # zeros: outside any block, whose elements have numbers
        assert (sides > 0).tolist() == [any(part.isdigit() for part in key.split("."))] * 2
    gradients = gradients_by_autograd(model.requires_grad_(True), layers, batch)
    expected = covariances_sample_by_sample(model, layers, batch, loaded.kind)
    for key, gradient in gradients.items():
        size = gradient.abs().max().item()
        torch.testing.assert_close(found.gradient[key], gradient, rtol=1e-3, atol=1e-4 * size)
        for kind in covariances:
            torch.testing.assert_close(getattr(found, kind)[key], expected[kind][key], rtol=1e-3, atol=1e-4)


def covariances_sample_by_sample(model, layers, batch, kind):
    """The covariances of each layer, from what one sample without padding gives it in all its calls."""
    scaled = {key: torch.zeros(layer.in_features, layer.in_features) for key, layer in layers.items()}
    given = {key: torch.zeros(layer.out_features, layer.out_features) for key, layer in layers.items()}
    learned, every = {key: [] for key in layers}, {key: [] for key in layers}
    samples = [single(batch, index, kind) for index in range(len(batch["labels"]))]
    for sample in samples:
        labels = sample["labels"] != IGNORED
        for key, calls in calls_of(model, layers, sample).items():
            for rows in (inputs.flatten(0, -2) for inputs in calls):
                scaled[key] += rows.T @ rows / rows.max().square()
                outputs = layers[key].forward(rows).detach()
                given[key] += outputs.T @ outputs / outputs.max().square()
                every[key].append(rows)
                learned[key].append(rows[labels[0]] if kind == "causal" and len(rows) == labels.numel() else rows)
    tokens = {key: torch.cat(rows) for key, rows in every.items()}
    return {
        "input_covariance": {key: total / len(samples) for key, total in scaled.items()},
        "output_covariance": {key: total / len(samples) for key, total in given.items()},
        "label_covariance": {key: torch.cat(rows).T.cov(correction=0) for key, rows in learned.items()},
        "token_covariance": {key: rows.T @ rows / len(rows) for key, rows in tokens.items()},
    }


def single(batch, index, kind):
    """One sample of a batch, without padding."""
    one = {key: tensor[index : index + 1] for key, tensor in batch.items()}
    if kind == "vision":
        return one
    attended = one["attention_mask"].bool()[0]
    labels = one["labels"]
    if kind != "encoder":
        labels = labels[:, attended if kind == "causal" else labels[0] != IGNORED]
    return {key: tensor[:, attended] for key, tensor in one.items() if key != "labels"} | {"labels": labels}


@pytest.mark.parametrize("name", ZOO)
def test_what_is_scored_is_what_is_trained(cell, name):
    """The tokens or pixels that the model is given, whatever the batch, and the answers, whichever its size."""
    cfg = cell(name, "none")
    loaded = cfg.model.load(cfg.task.num_labels, cfg.seed)
    kind, model = loaded.kind, loaded.model
    # Nothing trains, so the examples are made by the task of a run that does.
    task = cell(name, "hu").task.prepare(loaded, cfg.seed, cfg.score.split, True)
    given = set()

    def note(_module, args, kwargs):
        ids = kwargs.get("input_ids", kwargs.get(PIXELS, args[0] if args else None))
        mask = kwargs.get("attention_mask")
        for index, row in enumerate(() if ids is None else ids):
            padded = mask is not None and mask.shape == ids.shape
            given.add(tuple((row[mask[index].bool()] if padded else row).flatten().tolist()))

    reader = model.get_encoder() if kind == "seq2seq" else model
    hook = reader.register_forward_pre_hook(note, with_kwargs=True)
    answers = [
        [(outcome.response, outcome.choice) for outcome in score(loaded, task.evaluations, settings).outcomes]
        for settings in (cfg.score, replace(cfg.score, batch_size=1))
    ]
    hook.remove()
    for example in task.eval_examples[: cfg.score.limit]:
        ids = collate([example], PAD)[PIXELS].flatten().tolist() if kind == "vision" else example.input_ids
        if kind == "causal":
            ids = [token for token, label in zip(ids, example.labels, strict=True) if label == IGNORED]
        assert tuple(ids) in given
    if kind == "causal":
        assert answers[0] == answers[1]
    else:
        assert [choice for _, choice in answers[0]] == [choice for _, choice in answers[1]]


@pytest.mark.parametrize("name", ZOO)
def test_a_batch_gives_each_row_what_it_gets_alone(cell, name):
    cfg = cell(name, "hu")
    loaded = cfg.model.load(cfg.task.num_labels, cfg.seed)
    batch = cfg.task.prepare(loaded, cfg.seed, cfg.score.split, cfg.trains).probe
    whole = logits_of(loaded.model, batch)
    alone = [logits_of(loaded.model, single(batch, index, loaded.kind)) for index in range(len(batch["labels"]))]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=0, atol=1e-4 * whole.abs().max().item())


@pytest.mark.parametrize(("name", "method", "more", "words"), REFUSED)
def test_what_cannot_be_done_is_refused_before_data_is_read(cell, monkeypatch, name, method, more, words):
    monkeypatch.setattr(Task, "read", lambda *_: pytest.fail("data was read"))
    cfg = cell(name, method, *more)
    with pytest.raises(ValueError, match=words) as caught:
        run(cfg, Attempt(RunFolder.of(cfg)))
    assert "\n" not in str(caught.value)


def test_a_layer_that_the_model_does_not_call_is_refused(cell):
    """Mamba multiplies with the weight of dt_proj itself."""
    cfg = cell("mamba", "hu", "model.target_modules=[in_proj,x_proj,dt_proj]")
    with pytest.raises(ValueError, match=r"not call dt_proj, .* set model.target_modules=\[in_proj, x_proj\]$"):
        begin(cfg)


def test_the_models_page_lists_every_architecture_with_what_it_needs_and_what_is_refused():
    page = (ROOT / "conf" / "README.md").read_text().split("<!-- architectures -->\n")[1].split("<!-- end")[0]
    rows = [
        f"| `{name}` | {found.kind} | {' '.join(f'`{words}`' for words in found.overrides)} "
        f"| {'refused, before data is read: no `nn.Linear`' if name in NO_LINEAR else '✓'} |"
        for name, found in ZOO.items()
    ]
    assert page.splitlines()[2:] == [row.replace("  ", " ") for row in rows]
