"""Whole runs with a system: what is recorded, restored and exported, and what is refused before anything is read."""

import json
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from bench import export
from bench.config import ConfigError
from bench.plan.methods_table import num_trainable
from bench.study.folders import CONF
from bench.sweep import size
from bench.systems.base import System

EMBEDDED = Path(export.__file__).parent / "model" / "embedded" / "tiny_llama"
STRONG = ("train.learning_rate=0.02", "train.max_steps=6", "train.warmup_steps=0", "score.limit=1")
OPTIONS = {"adalora": ["system.initial=0.2", "system.final=0.4"], "xgblora": ["system.steps_a_round=2"]}
METHODS = {"flora": "full_ft", "lora_pro": "lora_ga", "lora_fa": "lora_ga", "riemannian": "reversed"}
NAMES = sorted(path.stem for path in (CONF / "system").glob("*.yaml") if path.stem != "none")
# One of each kind: gates, full weights, a truncated base, a map over a shifted start, a kernel, a base that moves.
RUN = ("adalora", "flora", "kasa", "lora_pro", "velora", "xgblora")


def overrides_for(name):
    return [f"method={METHODS.get(name, 'hu')}", f"system={name}", *OPTIONS.get(name, []), *STRONG]


@pytest.fixture(scope="module")
def runs(run_cell_in_module):
    return {name: run_cell_in_module(*overrides_for(name)) for name in RUN}


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 500, (3, 12), generator=torch.Generator().manual_seed(0))


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def test_the_record_names_the_system_beside_the_method(runs):
    for name in RUN:
        record, _ = runs[name]
        assert record.status == "completed", record.error
        assert record.config.system.name == name
        assert record.method == f"{METHODS.get(name, 'hu')}+{name}"
        assert record.run_id.startswith(f"{record.method}-")
        assert record.identity["system"]["_target_"].startswith(f"bench.systems.{name}.")
    assert runs["lora_pro"][0].label == "LoRA-GA + LoRA-Pro"
    assert runs["adalora"][0].label == "AdaLoRA"


def test_a_penalty_is_a_column_of_the_curve_beside_the_loss(runs):
    for name in RUN:
        rows = runs[name][1].rows("curve.jsonl")
        assert all(("penalty" in row) == (name in ("adalora", "kasa")) for row in rows)


def test_a_run_with_a_system_has_its_measures_of_alignment(runs):
    for name in RUN:
        rows = runs[name][1].rows("alignment.jsonl")
        cosines = [row["value"] for row in rows if row["layer"] == "all" and row["measure"] == "efficiency"]
        assert len(cosines) == 4
        assert all(-1e-4 <= value <= 1 + 1e-4 for value in cosines if value is not None)
    pro = [row["value"] for row in runs["lora_pro"][1].rows("alignment.jsonl") if row["measure"] == "efficiency"]
    assert min(pro) > 1 - 1e-4


@pytest.mark.parametrize("name", RUN)
def test_a_trained_model_is_restored_exported_and_merged_without_loss(runs, ids, tmp_path, name):
    folder = runs[name][1].path
    restored = export.restore(folder)
    trained = logits(restored.model, ids)
    pretrained = logits(AutoModelForCausalLM.from_pretrained(EMBEDDED), ids)
    assert (trained - pretrained).abs().max() > 1e-2
    close = {"rtol": 0, "atol": 1e-5 * trained.abs().max().item()}
    if name == "flora":
        with pytest.raises(ValueError, match="trains no adapter; --merged writes its weights"):
            export.write_adapter(folder, tmp_path / "adapter")
    else:
        export.write_adapter(folder, tmp_path / "adapter")
        stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(EMBEDDED), tmp_path / "adapter")
        torch.testing.assert_close(logits(stock, ids), trained, **close)
        keys = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
        assert not any("lora_E" in key for key in keys)
    restored.save_merged(tmp_path / "merged")
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), ids), trained, **close)


def exported_ranks(runs, tmp_path, name):
    export.write_adapter(runs[name][1].path, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    return {config["r"], *config["rank_pattern"].values()}


def test_exported_ranks_are_those_that_are_left(runs, tmp_path):
    assert exported_ranks(runs, tmp_path / "a", "kasa") == {8}  # with what was taken out
    assert exported_ranks(runs, tmp_path / "b", "xgblora") == {3}  # two boosters and the last round
    assert max(exported_ranks(runs, tmp_path / "c", "adalora")) <= 6
    saved = load_file(runs["adalora"][1].path / "trained.safetensors")
    gates = [tensor for key, tensor in saved.items() if key.endswith(".lora_E") and "initial" not in key]
    assert sum(int((tensor != 0).sum()) for tensor in gates) == 28 * 4


def test_a_run_without_a_system_keeps_its_id(compose_run):
    assert compose_run("method=lora_ga").run_id == compose_run("method=lora_ga", "system=none").run_id
    assert "system" not in compose_run("method=lora_ga").identity


@pytest.mark.parametrize("name", NAMES)
def test_plans_count_the_parameters_that_it_trains(compose_run, name):
    run = compose_run(*overrides_for(name)[:2], "rank=r4")
    assert size.trained_and_added(run)[0] == num_trainable(run)
    copies = {"lora_pro": 2, "flat_lora": 1, "xgblora": 1}
    assert run.system.num_copies == copies.get(name, 0)


REFUSED = {
    "system=lora_pro method=lora_sb": "LoRA-Pro needs a method that trains lora_A and lora_B",
    "system=lora_pro adapter.use_dora=true": "does not combine with adapter.use_dora=true",
    "system=riemannian adapter.loraplus_lr_ratio=4": "does not combine with adapter.loraplus_lr_ratio=4",
    "system=adalora method=eva": "AdaLoRA does not combine with method=eva",
    "system=adalora system.target_r=12 system.init_r=12": "must be below system.init_r=12",
    "system=xgblora train.max_steps=8": "steps_a_round=32 is longer than the run",
    "system=flora": "Flora does not combine with method=hu",
    "system=runlora train.precision=bf16": "take model.dtype=float32",
    "system=flat_lora system.sigma=-1": "sigma",
    "system=kasa train.parallel=fsdp": "system=kasa needs a layer's whole tensors, which train.parallel=fsdp shards",
    "system=lora_fa method=none": "LoRA-FA trains lora_B",
}


@pytest.mark.parametrize(("words", "told"), REFUSED.items())
def test_what_cannot_be_carried_is_refused_in_one_line_with_a_remedy(compose_run, words, told):
    with pytest.raises(ConfigError) as refused:
        compose_run(*words.split())
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [*NAMES, "none"])
def test_every_file_builds_a_system_of_its_module_and_states_all_of_its_settings(compose_run, name):
    run = compose_run(*overrides_for(name)[:2] if name != "none" else ["system=none"], "train.max_steps=90")
    assert isinstance(run.system, System)
    assert type(run.system).__module__ == f"bench.systems.{name}"
    assert all(field.default is MISSING for field in fields(run.system))
    opening = sys.modules[type(run.system).__module__].__doc__.partition("\n")[0]
    assert name == "none" or "arXiv:" in opening
