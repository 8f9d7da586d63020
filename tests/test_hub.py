import time
import warnings

import pytest
from huggingface_hub import constants

from bench.model.load import Model
from bench.process import hub
from bench.tasks.data import Carving, Dataset, HubDataset, Splits
from wandb_server import swallow


@pytest.fixture
def silent_hub(monkeypatch, tmp_path):
    """A Hub that takes connections and never answers."""
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{swallow()}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(hub, "TIMEOUT", 0.5)
    hub.ask.cache_clear()
    yield
    hub.ask.cache_clear()


def test_a_hub_that_never_answers_costs_one_bounded_wait_and_is_said_once(silent_hub):
    model = Model("x", "causal", "hub", "nobody/nothing", "main", None, "float32", "sdpa")
    hub_data = HubDataset("nobody/nothing", None, "main")
    data = Dataset("x", {"a": "text"}, {}, hub_data, Splits("train", "test"), {}, None)
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="it is not in the cache, and the Hub does not answer; or give a local"):
            model.load()
        with pytest.raises(ValueError, match="it is not in the cache, and the Hub does not answer; or give a local"):
            data.load(None, {"train"}, Carving(1))
    assert time.monotonic() - began < 60  # most of it imports; without the question it was minutes
    (once,) = [str(one.message) for one in said if "Hub" in str(one.message)]
    assert once.startswith("the Hub does not answer (timed out)")


def test_what_the_cache_has_is_there_without_the_hub_and_what_it_has_not_is_told_before(
    monkeypatch, compose_run, tmp_path
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for asked in (hub.ask, hub.refusal):
        asked.cache_clear()
    run = compose_run("model=smollm2_135m", "task=gsm8k", "train.learning_rate=1e-3", "method=hu")
    for part, ask in ((run.model, run.model.check_there), (run.task, lambda: run.task.check_there(True))):
        with pytest.raises(ValueError, match="cannot be loaded from the Hub: it is not in the cache, and HF_HUB_OFF"):
            ask()
        hub.refusal.cache_clear()
        kinds = {"models": run.model.path} if part is run.model else {"datasets": "openai/gsm8k"}
        for kind, path in kinds.items():
            revision = run.model.revision if kind == "models" else run.task.datasets["gsm8k"].hub.revision
            folder = tmp_path / f"{kind}--{path.replace('/', '--')}"
            (folder / "snapshots" / revision).mkdir(parents=True)
            (folder / "snapshots" / revision / "config.json").write_text("{}")
            (folder / "refs").mkdir()
        ask()
    local = compose_run("model=tiny_llama", "task=gsm_tiny", "method=hu")
    local.model.check_there()
    local.task.check_there(True)
    hub.ask.cache_clear()


def test_a_hub_that_is_said_to_be_offline_is_not_asked(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked"))
    hub.ask.cache_clear()
    assert hub.ask() is False
    hub.ask.cache_clear()


@pytest.mark.parametrize("outside", ["../../token", "/etc/hostname"])
def test_a_revision_that_leads_out_of_the_cache_is_refused_unread(compose_run, monkeypatch, tmp_path, outside):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--me--tiny" / "refs").mkdir(parents=True)
    (tmp_path / "token").write_text("secret")
    with pytest.raises(ValueError, match=f"model me/tiny: {outside} is no name of a revision; give a commit"):
        compose_run("model=smollm2_135m", "model.path=me/tiny", f"model.revision={outside}")
