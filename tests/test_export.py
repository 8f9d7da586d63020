import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from bench import export
from bench.report.card import model_card
from bench.runs.record import Record, read_record, write_record

# Each way to leave the pretrained weights: kept, shifted, with R, both, a first step, several ranks, half frozen.
ADAPTERS = "hu lora_ga lora_xs lora_sb pissa psoft eva lora_one asymmetry_a".split()
# What a user without this suite would write.
STOCK = """
import sys, torch
from transformers import AutoModelForCausalLM
from peft import PeftModel

base, ids, *adapters = sys.argv[1:]
ids, found = torch.load(ids), {}
with torch.no_grad():
    for folder in adapters:
        model = AutoModelForCausalLM.from_pretrained(base)
        found[folder] = PeftModel.from_pretrained(model, folder).eval()(input_ids=ids).logits
assert not any(name.split(".")[0] == "bench" for name in sys.modules)
torch.save(found, sys.argv[2] + ".out")
"""


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 500, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def runs(run_cell_in_module):
    """Short runs at a rate that moves the factors well away from their start."""
    strong = ["train.learning_rate=0.02", "train.max_steps=6", "measure=none", "score.limit=1"]
    found = {name: run_cell_in_module(f"method={name}", *strong)[1].path for name in [*ADAPTERS, "full_ft", "none"]}
    found["lora_ga, DoRA"] = run_cell_in_module("method=lora_ga", "adapter.use_dora=true", *strong)[1].path
    return found


def test_stock_peft_loads_every_adapter_on_the_unmodified_base_in_a_process_of_its_own(runs, ids, tmp_path):
    base = Path(export.__file__).parent / "model" / "embedded" / "tiny_llama"
    torch.save(ids, tmp_path / "ids")
    folders = {name: tmp_path / name.replace(", ", "-") for name in runs if name not in ("full_ft", "none")}
    for name, folder in folders.items():
        export.write_adapter(runs[name], folder)
    arguments = [str(base), str(tmp_path / "ids"), *map(str, folders.values())]
    done = subprocess.run(
        [sys.executable, "-c", STOCK, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "ids.out")
    pretrained = logits(export.restore(runs["none"]).model, ids)
    for name, folder in folders.items():
        trained = logits(export.restore(runs[name]).model, ids)
        assert (trained - pretrained).abs().max() > 1e-2
        torch.testing.assert_close(found[str(folder)], trained, rtol=0, atol=1e-5 * trained.abs().max().item())


def test_a_shifted_base_doubles_the_rank_and_a_matrix_in_the_middle_does_not(runs, tmp_path):
    expected = dict.fromkeys(("hu", "lora_xs", "lora_sb", "lora_one"), 4)
    expected |= dict.fromkeys(("lora_ga", "pissa", "psoft", "lora_ga, DoRA"), 8)
    for name, r in expected.items():
        export.write_adapter(runs[name], tmp_path / name)
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert config["r"] == r
        assert config["use_dora"] == ("DoRA" in name)
        scaling = read_record(runs[name]).config.method.scaling
        s = {"alpha_over_r": 2.0, "alpha_over_sqrt_r": 4.0, "one": 1.0}[scaling]
        assert config["lora_alpha"] / r == pytest.approx(s)
        keys = load_file(tmp_path / name / "adapter_model.safetensors").keys()
        assert not any("lora_R" in key for key in keys)


@pytest.mark.parametrize("name", ["lora_ga", "lora_sb", "full_ft", "lora_ga, DoRA"])
def test_merged_weights_are_a_model_of_their_own(runs, ids, tmp_path, name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export.restore(runs[name]).save_merged(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    trained = logits(export.restore(runs[name]).model, ids)
    torch.testing.assert_close(logits(merged, ids), trained, rtol=0, atol=1e-5 * trained.abs().max().item())
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("a").input_ids


def command(capsys, *arguments):
    status = export.main([str(argument) for argument in arguments])
    return status, capsys.readouterr()


def test_the_command_writes_and_says_where(runs, tmp_path, capsys):
    status, printed = command(capsys, runs["lora_sb"], "--to", tmp_path / "out")
    assert (status, printed.out.strip()) == (0, f"PEFT adapter in {tmp_path / 'out'}")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_the_card_says_what_it_was_made_from_and_what_it_scored_and_names_no_folder(runs, tmp_path):
    export.write_adapter(runs["lora_ga"], tmp_path / "out")
    record, card = read_record(runs["lora_ga"]), (tmp_path / "out" / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata == {"library_name": "peft", "tags": ["lora", "lora-init-bench"]}  # the base is on no Hub
    assert card.splitlines()[6] == "# LoRA-GA on gsm_tiny"
    assert f"tiny_llama, sha256 {record.model.revision}" in card
    assert f"r = 4, lora_alpha = {record.config.model_dump()['rank']['lora_alpha']:g};" in card
    assert "learning rate 0.02, seed 0" in card
    assert "| gsm_tiny | exact_match,strict-match | " in card
    assert 'AutoModelForCausalLM.from_pretrained("BASE_MODEL")  # the folder of tiny_llama' in card
    assert str(tmp_path) not in card
    assert "licen" not in card.lower()


def test_the_card_of_a_model_of_the_hub_names_it_and_its_commit(runs):
    content = read_record(runs["hu"]).model_dump()
    content["config"]["model"] |= {"source": "hub", "path": "me/base"}
    content["model"]["revision"] = "c" * 40
    content["command"] = "python -m bench.run model=local model.path=/home/me/secret"
    content["scores"] = [{"task": "t", "metric": "acc", "value": 0.0, "stderr": 0.0, "num_examples": 4}]
    content["scores"] += [{"task": "t", "metric": "loss", "value": 2.0, "stderr": 0.5, "num_examples": 4}]
    card = model_card(Record.model_validate(content))
    assert "| t | acc | 0 [0, 0.4899] | 4 |" in card  # Wilson's interval of 0 of 4
    assert "| t | loss | 2 [1.02, 2.98] | 4 |" in card  # 1.96 standard errors
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "me/base"
    assert f'from_pretrained("me/base", revision="{"c" * 40}")' in card
    assert "secret" not in card


def test_what_is_written_has_the_permissions_of_any_new_file(runs, tmp_path, capsys):
    old = os.umask(0o027)
    try:
        assert command(capsys, runs["hu"], "--to", tmp_path / "adapter")[0] == 0
        assert command(capsys, runs["hu"], "--to", tmp_path / "merged", "--merged")[0] == 0
    finally:
        os.umask(old)
    for path in (*(tmp_path / "adapter").iterdir(), *(tmp_path / "merged").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o640, path
    assert (runs["hu"] / "trained.safetensors").stat().st_mode & 0o777 == 0o666 & ~old


def test_what_cannot_be_exported_is_answered_in_one_line(runs, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    committed = tmp_path / "committed"
    committed.mkdir()
    (committed / "record.json").write_bytes((runs["hu"] / "record.json").read_bytes())
    for arguments, message in (
        ([tmp_path / "nosuch", "--to", tmp_path / "x"], "record.json: FileNotFoundError"),
        ([runs["hu"], "--to", tmp_path / "full"], "exists and is not an empty folder"),
        ([runs["full_ft"], "--to", tmp_path / "x"], "method=full_ft trains no adapter; --merged writes its weights"),
        ([committed, "--to", tmp_path / "x"], "has no trained.safetensors, which are not committed: do the run again"),
    ):
        status, printed = command(capsys, *arguments)
        assert status == 2
        assert message in printed.err
        assert printed.err.count("\n") == 1
        assert not (tmp_path / "x").exists()


def test_a_base_that_has_changed_since_is_refused(runs, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for path in runs["hu"].iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    record = read_record(folder)
    record.model.revision = "0" * 64
    write_record(folder, record)
    with pytest.raises(ValueError, match=r"the run started from 0000"):
        export.restore(folder)
