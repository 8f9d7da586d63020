import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.process.redact import REDACTED, local, localised, portable, redacted, shareable, without_secrets
from bench.runs.record import identity_digest

ROOT = Path(__file__).parents[1]
TOKEN, KEY = "hf_" + "Planted" * 5, "local-planted-wandb-key/+7"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user of whom nothing but what a test plants is known."""
    folder = tmp_path / "jdoe_home"
    folder.mkdir()
    for name in list(os.environ):
        if any(word in name for word in ("TOKEN", "KEY", "SECRET", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USER", "jdoe")
    monkeypatch.setenv("LOGNAME", "jdoe")
    return folder


def test_the_value_of_a_variable_whose_name_says_secret_is_taken_out(home, monkeypatch):
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "MY_CREDENTIALS", "some_apikey"):
        with monkeypatch.context() as one:
            one.setenv(name, "correct horse")
            assert redacted("before correct horse after") == f"before {REDACTED} after", name


def test_other_values_and_those_too_short_or_numbers_stay(home, monkeypatch):
    others = {"TOKENIZERS_PARALLELISM": "disabled", "MAX_TOKENS": "10000000", "API_KEY": "short", "EDITOR": "an-editor"}
    for name, value in others.items():
        monkeypatch.setenv(name, value)
        assert redacted(f"before {value} after") == f"before {value} after"


def test_a_secret_is_taken_out_whole_however_it_is_written(home, monkeypatch):
    monkeypatch.setenv("A_TOKEN", "p%22ass%5C")
    secret = 'p"ass\\wörd/+'
    monkeypatch.setenv("DB_PASSWORD", secret)
    for written in (secret, json.dumps(secret)[1:-1], "p%22ass%5Cw%C3%B6rd%2F%2B"):
        assert redacted(f"x {written} y") == f"x {REDACTED} y", written


def test_what_has_the_form_of_a_key_is_taken_out_wherever_it_comes_from(home):
    for text in ("hf_" + "aB3" * 11, "wandb_v1_" + "x_9" * 20, "ghp_" + "a1" * 18, "github_pat_" + "a1_" * 12,
                 "sk-" + "a1" * 20, "AKIAABCDEFGHIJKLMNOP"):  # fmt: skip
        assert redacted(f"at {text}, there") == f"at {REDACTED}, there"
    digits = "0123456789" * 4
    assert redacted(f"revision {digits}") == f"revision {digits}"
    assert digits not in redacted(f"api_key={digits}")
    assert digits not in redacted(f'"token": "{digits}"')
    assert redacted("https://user:pass-word@host/x") == f"https://{REDACTED}@host/x"


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("{home}", "~"),
        ("{home}/models/llama", "~/models/llama"),
        ("{home}less/x", "{home}less/x"),
        ("/scratch/jdoe/a b/jdoe", "/scratch/$USER/a b/$USER"),
        ("/scratch/jdoes", "/scratch/jdoes"),
        ("jdoe/model", "jdoe/model"),
        ("https://huggingface.co/jdoe/model", "https://huggingface.co/jdoe/model"),
        ("results", "results"),
    ],
)
def test_a_path_is_written_without_home_and_name_and_read_back(home, path, written):
    path, written = path.format(home=home), written.format(home=home)
    assert portable(path) == written
    assert portable(written) == written
    assert local(written) == path


def test_paths_in_a_text_lose_home_and_name(home):
    text = f'File "{home}/x.py", line 3, in /scratch/jdoe/y: --root=/data/jdoe'
    assert portable(text) == 'File "~/x.py", line 3, in /scratch/$USER/y: --root=/data/$USER'


def test_a_nest_is_cleaned_at_every_depth_and_numbers_stay(home, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    nest = {"a": [f"x {TOKEN}", {"b": f"{home}/y"}], TOKEN: 3, "n": 1.5, "none": None}
    clean = shareable(nest)
    assert clean == {"a": [f"x {REDACTED}", {"b": "~/y"}], REDACTED: 3, "n": 1.5, "none": None}
    assert localised(clean)["a"][1]["b"] == f"{home}/y"
    assert without_secrets(nest)["a"][1]["b"] == f"{home}/y"


FAILING = """
from dataclasses import dataclass
from typing import ClassVar
import os
from bench.methods.base import Method

@dataclass(frozen=True)
class Leaking(Method):
    label: ClassVar[str] = "Leaking"
    trains: ClassVar[frozenset] = frozenset({"lora_A", "lora_B"})
    keeps_function: ClassVar[bool] = True
    scaling: str = "one"
    note: str = ""

    def factors(self, layer, generator):
        token, key, home = (os.environ[name] for name in ("HF_TOKEN", "WANDB_API_KEY", "HOME"))
        raise RuntimeError(f"401 for {token} with {key} in {home}")
"""


def test_no_key_no_name_and_no_home_reaches_a_record_a_log_or_wandbs_files(tmp_path):
    """A run fails with a planted token, key, user and home in its error and its configuration."""
    home = tmp_path / "home" / "plantedname"
    home.mkdir(parents=True)
    (home / "leaking.py").write_text(FAILING)
    planted = {
        "HOME": str(home), "USER": "plantedname", "LOGNAME": "plantedname", "HF_TOKEN": TOKEN, "WANDB_API_KEY": KEY,
        "PYTHONPATH": f"{home}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    overrides = (
        f"method=reversed method._target_=leaking.Leaking method.name=leaking +method.note={TOKEN} track=offline "
        f"train.learning_rate=1e-3 measure=none study=trial cache.enabled=false results_dir={home}/results"
    )
    command = [sys.executable, "-m", "bench.run", *overrides.split()]
    done = subprocess.run(command, env=os.environ | planted, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    files = {path: path.read_bytes() for path in (home / "results").rglob("*") if path.is_file()}
    (record,) = (json.loads(content) for path, content in files.items() if path.name == "record.json")
    assert any(path.suffix == ".wandb" for path in files)
    assert record["run_id"].endswith(identity_digest(record["identity"]))
    assert record["error"]["message"] == f"401 for {REDACTED} with {REDACTED} in ~"
    for secret in (TOKEN, KEY):
        assert [str(path) for path, content in files.items() if secret.encode() in content] == []
        assert secret not in done.stdout + done.stderr
    assert [str(path) for path, content in files.items() if b"plantedname" in content] == []
