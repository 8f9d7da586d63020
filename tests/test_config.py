import shutil

import pytest

from bench.config import ConfigError, Run
from bench.model.load import EMBEDDED
from bench.runs import assemble, job
from bench.study.folders import ROOT


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "rank=r4",
        "rank.lora_alpha=8",
        "method=reversed",
        "method.scaling=one",
        "train.learning_rate=0.5",
        "train.max_steps=7",
        "measure=none",
        "score.limit=3",
        "task.probe_samples=3",
        "model.target_modules=[q_proj]",
        "adapter.use_dora=true",
        "adapter.loraplus_lr_ratio=16",
        "method.distribution=gaussian",
    ],
)
def test_whatever_can_change_a_number_changes_the_id(compose_run, override):
    assert compose_run("method=hu").run_id != compose_run("method=hu", override).run_id


@pytest.mark.parametrize(
    ("method", "ignored"),
    [
        ("none", ["rank=r4", "seed=3", "train.max_steps=9", "measure=none", "task.calibration_samples=5"]),
        ("full_ft", ["rank=r4", "task.calibration_samples=5"]),
        ("hu", ["task.calibration_samples=5", "track=offline", "results_dir=b", "study=y"]),
        ("lora_ga", ["cache.enabled=false", "cache.dir=elsewhere", "cache.max_gb=1"]),
    ],
)
def test_axes_that_a_method_ignores_and_folders_and_tracking_leave_its_id_alone(compose_run, method, ignored):
    plain = compose_run(f"method={method}").run_id
    assert {compose_run(f"method={method}", override).run_id for override in ignored} == {plain}
    assert compose_run("method=lora_ga", "task.calibration_samples=5").run_id != compose_run("method=lora_ga").run_id


def test_changed_data_changes_the_id(compose_run, tmp_path):
    def written(answer):
        for split in ("train", "test"):
            (tmp_path / "gsm8k").mkdir(exist_ok=True)
            (tmp_path / "gsm8k" / f"{split}.jsonl").write_text(f'{{"question": "q", "answer": "{answer}"}}\n')
        return compose_run("task=gsm8k", f"data.root={tmp_path}").run_id

    assert written("#### 1") != written("#### 2")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+model.nosuch=1"], "model.nosuch=1: nothing reads this key"),
        (["++method.gama=3"], "method.gama=3: nothing reads this key"),
        (["+expriment=demo"], "expriment='demo': nothing reads this key"),
        (["rank.r=0"], "rank.r=0: input should be greater than 0"),
        (["rank.r=2.5"], "rank.r=2.5: input should be a valid integer"),
        (["train.max_steps=-1"], "train.max_steps=-1: input should be greater than 0"),
        (["train.batch_size=0"], "train.batch_size=0: input should be greater than 0"),
        (["train.learning_rate=0"], "train.learning_rate=0: input should be greater than 0"),
        (["train.learning_rate=null"], "needs a learning rate"),
        (
            ["method=mica", "model=smollm2_135m"],
            "method=mica needs a learning rate for model=smollm2_135m: none is known to be published for a model of "
            "kind causal; say train.learning_rate=RATE",
        ),
        (["method=pissa", "model=roberta_base", "task=glue/sst2"], "for a model of kind encoder"),
        (["model=smollm2_135m", "+published_rates.decoder={rate: 1, source: me}"], "should be 'causal', 's"),
        (["method=lora_ga", "method.gamma=-1"], "method.gamma=-1: input should be greater than 0"),
        (["method._target_=bench.methods.hu.Nobody"], "names no class"),
        (["seed=abc"], "seed='abc': input should be a valid integer"),
        (
            ["study=2024"],
            'study=2024: YAML reads a number here, and a text is wanted: quote it, study: "TEXT" in a file',
        ),
        (["results_dir=true"], "results_dir=True: YAML reads true or false here, and a text is wanted: quote it"),
        (["model.revision=1e5"], "'model.revision=\"TEXT\"' on a command line"),
        (
            ["method=lora_xs", "adapter.use_dora=true"],
            "needs a method that trains lora_A or lora_B, and lora_xs trains lora_R",
        ),
        (
            ["method=sorsa", "adapter.use_dora=true"],
            "PEFT's form of W and s B A alone, and sorsa trains lora_A, lora_B, lora_E; take adapter.use_dora=false",
        ),
        (["method=full_ft", "adapter.use_dora=true"], "and full_ft trains weight"),
        (["method=none", "adapter.loraplus_lr_ratio=16"], "and none trains nothing"),
        (["method=asymmetry_b", "adapter.loraplus_lr_ratio=16"], "=16 needs a method that trains lora_A and lora_B"),
        (["adapter.loraplus_lr_ratio=0"], "adapter.loraplus_lr_ratio=0: input should be greater than 0"),
        (["method=eva", "method.rho=0.5"], "method.rho=0.5: input should be greater than or equal to 1"),
        (["method=lora_ga", "method.direction=up"], "method.direction='up': input should be 'arb2r', "),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line_with_key_value_and_limit(compose, overrides, message):
    with pytest.raises(ConfigError) as refused:
        Run.from_config(compose(*overrides))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


LOCAL = ["model=local", f"model.path={EMBEDDED / 'tiny_llama'}"]


def test_a_model_that_is_not_embedded_takes_the_published_rate_unless_one_is_given(compose_run):
    published = compose_run("method=lora_ga", *LOCAL)
    assert published.train.learning_rate == 2e-5
    assert "Llama 2 7B" in published.learning_rate_source
    sized = compose_run("method=lora_ga", "model=t5_base", "task=glue/rte")
    assert (sized.train.learning_rate, sized.learning_rate_source[-9:]) == (1e-4, "(seq2seq)")
    given = compose_run("method=lora_ga", *LOCAL, "train.learning_rate=2e-5")
    assert given.learning_rate_source is None
    assert given.run_id == published.run_id  # the rate counts, not where it is from
    embedded = compose_run("method=lora_ga")
    assert (embedded.train.learning_rate, embedded.learning_rate_source) == (2e-3, None)
    assert compose_run("method=none", *LOCAL).train.learning_rate is None


def test_what_a_record_says_of_a_published_rate_is_read_again(compose_run):
    run = compose_run("method=lora_ga", *LOCAL)
    read = Run.from_record(assemble.failed(run, ValueError("no"), ""))
    assert (read.train, read.learning_rate_source) == (run.train, run.learning_rate_source)


def test_a_run_says_that_it_takes_a_published_rate(compose_run, tmp_path, capsys):
    def fail(cfg, attempt):
        raise ValueError("enough")

    for overrides in (["method=lora_ga"], ["method=lora_ga", *LOCAL]):
        job.execute(compose_run(*overrides, f"results_dir={tmp_path}", "track=none"), fail, "[1/1]")
    told = [line for line in capsys.readouterr().out.splitlines() if "learning_rate" in line]
    assert len(told) == 1
    assert told[0].startswith("train.learning_rate=2e-05 was not given: it is that of LoRA-GA (arXiv:2407.05000)")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("train.max_steps=10", "train.warmup_steps=10", "train.eval_steps=10"), "its peak"),
        (("train.max_steps=10", "train.warmup_steps=1", "train.eval_steps=11"), "after the last step only"),
        (("train.max_steps=10", "train.warmup_steps=9", "train.eval_steps=10"), ""),
        (("train.max_steps=9", "train.warmup_steps=9", "train.eval_steps=0", "train.lr_scheduler_type=constant"), ""),
    ],
)
def test_what_does_not_happen_in_so_few_steps_is_warned_of(compose_run, overrides, said):
    assert compose_run("method=hu", *overrides).train.short_of_its_steps.endswith(said)
    assert bool(compose_run("method=hu", *overrides).train.short_of_its_steps) == bool(said)


def test_cells_that_differ_in_the_place_of_their_data_or_model_are_told_apart(compose_run, tmp_path):
    def places(*overrides):
        return compose_run(*LOCAL, *overrides).places

    assert places() == places("seed=1", "train.max_steps=3")
    assert places() != places(f"data.root={tmp_path}")
    other = tmp_path / "model"
    shutil.copytree(EMBEDDED / "tiny_llama", other)
    assert places() != places(f"model.path={other}")
    assert places(f"model.path={other}") == places(f"model.path={tmp_path}/model/")


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        (["train.warmup_steps=10"], 1e-3),
        (["train.warmup_steps=0"], 1e-2),
        (["train.lr_scheduler_type=constant"], 1e-2),
    ],
)
def test_first_learning_rate_is_the_first_nonzero_value_of_the_schedule(compose_run, overrides, first):
    import torch
    from torch.optim import SGD
    from transformers import get_scheduler

    train = compose_run("train.learning_rate=1e-2", *overrides).train
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=train.learning_rate)
    schedule = get_scheduler(train.lr_scheduler_type, optimizer, train.warmup_steps, train.max_steps)
    rates = []
    for _ in range(4):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert train.first_learning_rate() == pytest.approx(first)
    assert next(rate for rate in rates if rate > 0) == pytest.approx(first)


def test_warmup_counted_in_calibration_batches_is_longer_by_the_ratio_of_batch_sizes(compose_run):
    train = compose_run("train.learning_rate=1e-2", "train.warmup_steps=10", "train.batch_size=16").train
    assert train.first_learning_rate(examples_a_batch=4) == pytest.approx(1e-3 / 4)


def test_the_solver_counts_for_a_method_that_decomposes_and_for_no_other(compose_run):
    def changes(setting, *chosen):
        return compose_run(*chosen).run_id != compose_run(*chosen, setting).run_id

    for setting in ("svd.solver=exact", "svd.rank=64", "svd.tolerance=1e-4"):
        assert changes(setting, "method=lora_ga")
        assert changes(setting, "method=lora_xs")
        assert not changes(setting, "method=hu")
        assert not changes(setting, "method=lora_xs", "method.basis=random")
    assert changes("svd.sketch_bound=0.9", "method=lora_ga", "method.gradient=sketch")
    assert not changes("svd.sketch_bound=0.9", "method=lora_ga")


def test_one_scaling_rule_for_all_is_the_methods_own_where_they_agree(compose_run):
    assert compose_run("method=hu", "adapter.scaling=alpha_over_r").run_id == compose_run("method=hu").run_id
    controlled = compose_run("method=lora_ga", "adapter.scaling=alpha_over_r")
    assert controlled.method.scaling == "alpha_over_r"
    assert controlled.run_id == compose_run("method=lora_ga", "method.scaling=alpha_over_r").run_id
    assert controlled.run_id != compose_run("method=lora_ga").run_id


def test_every_method_that_trains_a_or_b_takes_the_rule_of_all_and_no_other_is_changed(compose_run):
    for path in sorted((ROOT / "conf" / "method").glob("*.yaml")):
        run = compose_run(f"method={path.stem}", "adapter.scaling=alpha_over_sqrt_r")
        if run.method.trains & {"lora_A", "lora_B"}:
            assert run.method.scaling == "alpha_over_sqrt_r", path.stem
        else:
            assert run.run_id == compose_run(f"method={path.stem}").run_id
