"""Models and datasets of a Hub, read as a user reads them, through the libraries, from a server with its protocol.

The libraries read their environment when they are imported, so what needs the Hub runs in two processes: one that the
Hub answers, and one without it.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import sys

import hub_user
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHORT
from hub_server import MEMBER, Hub, Repository
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.model.load import EMBEDDED
from bench.process import hub
from bench.runs.record import read_record
from bench.runs.verify import differences
from gguf_files import tiny, write

SETTINGS = ["task=gsm8k", "method=hu", *SHORT[:-1], "task.validation_samples=8", "study=mine"]
BROKEN = 100_000  # bytes, whole parts as hub_user.py writes them

README = """---
configs:
- config_name: main
  data_files: [{split: train, path: main/train-*}, {split: test, path: main/test-*}]
- config_name: other
  data_files: [{split: train, path: other/train-*}]
---
"""


def parquet(first, count):
    rows = [{"question": f"What is {i} plus 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"} for i in range(count)]
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows[first:]), written)
    return written.getvalue()


def sums(first):
    """A dataset of two configurations, one of them in two files and two splits."""
    return {
        "README.md": README.encode(),
        "main/train-00000-of-00002.parquet": parquet(first, first + 40),
        "main/train-00001-of-00002.parquet": parquet(first + 40, first + 80),
        "main/test-00000-of-00001.parquet": parquet(first + 80, first + 100),
        "other/train-00000-of-00001.parquet": parquet(first + 100, first + 110),
    }


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    source = EMBEDDED / "tiny_llama"
    tokenizer, models = AutoTokenizer.from_pretrained(source), {}
    for name, size in (("sharded", "2MB"), ("whole", "10MB")):
        model = AutoModelForCausalLM.from_pretrained(source)
        model.save_pretrained(folder / name, max_shard_size=size)
        tokenizer.save_pretrained(folder / name)
        models[name] = {path.name: path.read_bytes() for path in (folder / name).iterdir()}
    assert {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)} < models["sharded"].keys()
    moved = models["sharded"] | {"README.md": b"A later commit."}
    return {
        ("models", "me/tiny"): Repository([models["sharded"], moved], {"main": 0, "v1": 0}),
        ("models", "me/torn"): Repository([models["whole"]]),
        ("models", "me/gated"): Repository([models["sharded"]], gated=True),
        ("models", "me/blocks"): Repository([{"tiny.gguf": write(folder / "tiny.gguf", tiny()).read_bytes()}]),
        ("datasets", "me/sums"): Repository([sums(0), sums(1000)], {"main": 0, "later": 1}),
        ("datasets", "me/gated"): Repository([sums(0)], gated=True),
    }


@pytest.fixture(scope="module")
def done(repositories, tmp_path_factory):
    """The two processes, the Hub that the first one asked, and the folders of both."""
    target = tmp_path_factory.mktemp("hub")
    cache = {"HF_HOME": str(target / "home"), "LORA_INIT_BENCH_CACHE": str(target / "cache")}
    model = ["model=smollm2_135m", "model.path=me/tiny", "model.revision=main", "model.architecture=null"]
    data = [f"task.datasets.gsm8k.hub.{key}" for key in ("path=me/sums", "revision=main")]
    served = Hub(repositories)
    served.breaks = {"model-00001-of-00002.safetensors": (BROKEN, False), "model.safetensors": (BROKEN, True)}
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}

    def user(what, track, **more):
        words = [sys.executable, hub_user.__file__, what, target / what, f"track={track}", *SETTINGS, *model, *data]
        environment = kept | cache | {"HF_ENDPOINT": served.endpoint} | more
        ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout + ended.stderr

    with served.serving("/behind/a/path"):
        online = user("online", "offline", HF_TOKEN=MEMBER)
    return online, user("offline", "none", HF_HUB_OFFLINE="1"), served, target


def record_of(folder):
    (found,) = folder.glob("results/mine/hu-*")
    return found, read_record(found)


def test_a_branch_of_the_hub_is_resolved_and_its_commit_is_recorded_rerun_and_exported(done, repositories):
    online, _, _, target = done
    _, record = record_of(target / "online")
    commits = [repositories[of].commit(0) for of in (("models", "me/tiny"), ("datasets", "me/sums"))]
    assert record.status == "completed", record.error
    assert record.model.revision == record.config.model.revision == commits[0]
    assert record.config.task.datasets["gsm8k"]["hub"]["revision"] == commits[1]
    assert record.identity["model"]["content"] == f"me/tiny@{commits[0]}"
    assert set(record.identity["task"]["datasets"]["gsm8k"]["content"].values()) == {f"me/sums/main@{commits[1]}"}
    assert f"model.revision={commits[0]}" in record.command
    assert f"task.datasets.gsm8k.hub.revision={commits[1]}" in record.command
    assert f"warning: model me/tiny: main is no commit and can move; this run starts from {commits[0]}" in online
    exported = json.loads((target / "online" / "adapter" / "adapter_config.json").read_text())
    assert (exported["base_model_name_or_path"], exported["revision"]) == ("me/tiny", commits[0])
    assert (target / "online" / "merged" / "model.safetensors").is_file()


def test_without_the_hub_the_run_is_repeated_from_the_cache_to_the_last_digit(done):
    (one, first), (other, second) = (record_of(done[3] / name) for name in ("online", "offline"))
    assert (second.status, second.run_id) == ("completed", first.run_id)
    assert differences(one, other) == []


def test_a_download_that_broke_off_goes_on_where_it_stopped(done, repositories):
    asked = done[2].asked
    part = repositories["models", "me/tiny"].commits[0]["model-00001-of-00002.safetensors"]
    of_part = [given for _, path, _, given in asked if path == f"cdn /{hashlib.sha256(part).hexdigest()}"]
    assert of_part == [None, f"bytes={BROKEN}-"]


def test_the_token_reaches_the_hub_and_nothing_else(done):
    online, offline, served, target = done
    assert served.asked[0] == ("HEAD", "/behind/a/path", None, None)
    assert [path for _, path, *_ in served.asked].count("/behind/a/path") == 1
    assert {token for _, path, token, _ in served.asked if "me/tiny" in path or "me/sums" in path} == {MEMBER}
    assert {token for _, path, token, _ in served.asked if path.startswith("cdn")} == {None}
    written = [path for name in ("online", "offline") for path in (target / name).rglob("*") if path.is_file()]
    assert {".wandb", ".json", ".safetensors"} <= {path.suffix for path in written}
    assert [path for path in written if MEMBER.encode() in path.read_bytes()] == []
    assert MEMBER not in online + offline


LOG_IN = "`hf auth login`, or set HF_TOKEN"
SAID = {
    "gated, no token": "it is gated; accept its licence at {page}, then log in with " + LOG_IN,
    "gated, a stranger": "it is gated, and the user of this token has no access; accept its licence at {page}",
    "gated, a token that has expired": "the Hub refuses the token, that of HF_TOKEN or of `hf auth login`; renew it",
    "missing": "there is no {what} of this name, or it is private; check the name, or log in with " + LOG_IN,
    "missing, no token": "there is no {what} of this name, or it is private; check the name, or log in with " + LOG_IN,
    "no name": "this is no name of a {what} on the Hub, which is OWNER/NAME",
    "no branch": "it has no revision nope; {there}/commits/main lists its commits",
    "no commit": "it has no revision " + "0" * 40,
}


@pytest.mark.parametrize("what", ["model", "dataset"])
def test_a_repository_that_cannot_be_had_is_one_line_with_the_cause_and_the_remedy(done, what):
    _, _, served, target = done
    root = served.endpoint + ("/datasets" if what == "dataset" else "")
    pages = {"what": what, "page": f"{root}/me/gated", "there": f"{root}/me/{'sums' if what == 'dataset' else 'tiny'}"}
    said = json.loads((target / "online" / "said.json").read_text())[what]
    for case, expected in SAID.items():
        assert f"cannot be loaded from the Hub: {expected.format(**pages)}" in said[case]
        assert re.search(LOCALLY[what], said[case])
        assert "\n" not in said[case]
    offline = json.loads((target / "offline" / "said.json").read_text())[what]
    assert "it is not in the cache, and HF_HUB_OFFLINE is set; or give a local folder" in offline


LOCALLY = {
    "model": r"or give a local folder: model=local model.path=FOLDER$",
    "dataset": r"or give a local folder: data.root=FOLDER, holding \w+/SPLIT.jsonl$",
}


def test_what_is_there_is_loaded_and_what_is_not_in_it_is_named(done, repositories):
    said = json.loads((done[3] / "online" / "said.json").read_text())
    model, dataset = said["model"], said["dataset"]
    assert model["tag"] == repositories["models", "me/tiny"].commit(0)
    assert "it is gated, and the user of this token has no access" in model["no kind"]
    assert "the connection broke off (ReadError" in model["torn"]
    assert "the same command fetches the files that are not there yet" in model["torn"]
    assert model["torn, again"] == repositories["models", "me/torn"].commit(0)
    (blocks,) = repositories["models", "me/blocks"].commits[0].values()
    assert model["a GGUF file"] == hashlib.sha256(blocks).hexdigest()
    assert "model me/blocks has no file other.gguf at " in model["no GGUF file"]
    assert dataset["gated, a member"] == 80 - 2
    assert dataset["subsets of a branch"] == 80 + 10 - 2
    assert """Unknown split "training". Should be one of ['train', 'test']""" in dataset["no split"]
    assert "BuilderConfig 'x' not found. Available: ['main', 'other']" in dataset["no subset"]


@pytest.mark.filterwarnings("ignore:.*main is no commit and can move")
def test_a_branch_that_has_moved_makes_another_run_and_a_commit_the_same(
    repositories, compose_run, monkeypatch, tmp_path
):
    model, data = (repositories[of] for of in (("models", "me/tiny"), ("datasets", "me/sums")))

    def run(of_model, of_data):
        hub.commit.cache_clear()
        given = ["model=smollm2_135m", "model.path=me/tiny", f"model.revision={of_model}", "task=gsm8k"]
        given += ["task.datasets.gsm8k.hub.path=me/sums", f"task.datasets.gsm8k.hub.revision={of_data}"]
        made = compose_run(*given)
        assert (made.model.revision, made.task.datasets["gsm8k"].hub.revision) == (model.commit(m), data.commit(d))
        return made.run_id

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "ask", lambda: True)
    ids = {}
    with Hub(repositories).serving() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        for m, d in ((0, 0), (0, 1), (1, 1)):
            model.names["main"], data.names["main"] = m, d
            ids[m, d] = run("main", "main")
            assert ids[m, d] == run(model.commit(m), data.commit(d))
    model.names["main"], data.names["main"] = 0, 0
    hub.commit.cache_clear()
    assert len(set(ids.values())) == 3
