import json
import shutil
from pathlib import Path

import pytest
import torch

from bench.model.embedded import pretrain
from bench.model.load import EMBEDDED
from bench.process.store import Cache
from bench.score.retention import GENERATED, Retention, before_training
from bench.tasks.source import OFF
from models import scoring, tiny_bert, tiny_llama, tiny_t5, whole, word_tokenizer


def taken(loaded, text=None, num_tokens=640, embedded=False, cache=OFF):
    return before_training(Retention(text, num_tokens), loaded, embedded, scoring(), cache)


def of_blocks(model, blocks):
    """The mean over all tokens but each block's first, a block at a time."""
    with torch.no_grad():
        losses = [model(input_ids=ids[None], labels=ids[None]).loss.item() for ids in blocks]
    counts = [len(ids) - 1 for ids in blocks]
    return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)


@pytest.mark.parametrize("name", ["tiny_llama_w32"])
def test_an_embedded_models_loss_is_the_eval_loss_of_its_pretraining(compose_run, name):
    loaded = compose_run(f"model={name}").model.load()
    written = json.loads((EMBEDDED / name / "recipe.json").read_text())
    recipe = pretrain.Recipe(**written["recipe"])
    whole_of_it = 32 * recipe.batch_size * recipe.sequence_tokens
    found = taken(loaded, num_tokens=whole_of_it, embedded=True)
    assert found.name == GENERATED
    assert sum(len(block.input_ids) for block in found.blocks) == whole_of_it
    assert round(found.loss_before, 4) == pytest.approx(written["eval_loss"], abs=1e-4)


@pytest.fixture
def files(tmp_path):
    """A folder of a text and of rows, and all documents in order."""
    (tmp_path / "b.txt").write_text("the cat sees a dog " * 20)
    pages = ["a bird likes the tree", "the old man", "the girl finds a red bird " * 9]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"page": page}) + "\n" for page in pages))
    (tmp_path / "a.md").write_text("not read")
    return tmp_path, ["the cat sees a dog " * 20, *pages]


def test_a_folders_documents_follow_one_another_each_closed_and_in_blocks(files):
    folder, documents = files
    model, tokenizer = tiny_llama().eval(), word_tokenizer("causal")
    tokens = [number for text in documents for number in [*tokenizer(text).input_ids, tokenizer.eos_token_id]]
    found = taken(whole(model, tokenizer=tokenizer), folder, 10_000)
    blocks = torch.tensor(tokens[: len(tokens) // 64 * 64]).view(-1, 64)
    assert [block.input_ids for block in found.blocks] == blocks.tolist()
    assert found.loss_before == pytest.approx(of_blocks(model, blocks), rel=1e-6)
    fewer = taken(whole(model, tokenizer=tokenizer), folder / "b.txt", 70)
    assert [block.input_ids for block in fewer.blocks] == blocks[:1].tolist()
    assert fewer.name == "b.txt"


def test_training_changes_the_loss_after_and_not_before(files):
    loaded = whole(tiny_llama())
    found = taken(loaded, files[0])
    assert found.facts(loaded, scoring()).forgetting == 0.0
    with torch.no_grad():
        loaded.model.lm_head.weight.mul_(2.0)
    facts = found.facts(loaded, scoring())
    assert facts.loss_before == found.loss_before
    blocks = [torch.tensor(block.input_ids) for block in found.blocks]
    assert facts.loss_after == pytest.approx(of_blocks(loaded.model.eval(), blocks), rel=1e-6)
    assert facts.loss_after != facts.loss_before


def test_the_loss_before_is_taken_once_a_model_and_text(files, tmp_path, monkeypatch):
    cache = Cache(enabled=True, dir=tmp_path / "cache", max_gb=1.0)
    first = taken(whole(tiny_llama()), files[0], cache=cache)
    monkeypatch.setattr("bench.score.retention.losses_of", lambda *_: pytest.fail("was taken again"))
    assert taken(whole(tiny_llama()), files[0], cache=cache).loss_before == first.loss_before
    with pytest.raises(pytest.fail.Exception, match="was taken again"):
        taken(whole(tiny_llama()), files[0] / "c.jsonl", cache=cache)


def test_nothing_is_measured_of_other_kinds_without_a_text_or_of_no_tokens(files):
    assert taken(whole(tiny_bert(), "encoder"), files[0]) is None
    assert taken(whole(tiny_t5(), "seq2seq"), files[0]) is None
    assert taken(whole(tiny_llama())) is None
    assert taken(whole(tiny_llama()), files[0], num_tokens=0) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none", None, "holds no text; give a .txt or .jsonl file"),
        ("a.txt", "", "holds 1 tokens, and a loss needs two"),
        ("a.jsonl", '{"sentence": "a"}\n', "a.jsonl:1 has no text in text or page"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        taken(whole(tiny_llama()), tmp_path / name)


def test_a_text_may_lie_in_an_installed_package(tmp_path, monkeypatch, files):
    folder = tmp_path / "some_texts"
    shutil.copytree(files[0], folder / "data")
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    inside = taken(whole(tiny_llama()), Path("package:some_texts/data/b.txt"))
    outside = taken(whole(tiny_llama()), folder / "data" / "b.txt")
    assert [block.input_ids for block in inside.blocks] == [block.input_ids for block in outside.blocks]
    assert inside.name == "b.txt"
    with pytest.raises(
        ValueError, match=r"^retention\.text=no_texts/b\.txt: the package no_texts is not installed; pip"
    ):
        taken(whole(tiny_llama()), Path("package:no_texts/b.txt"))


# In a run


def test_a_run_records_it_and_without_it_every_other_number_is_the_same(run_cell_in_module):
    record, cell = run_cell_in_module("method=pissa", "retention.num_tokens=640", "train.learning_rate=1e-2")
    kept = record.retention
    assert (kept.text, kept.num_tokens) == (GENERATED, 640)
    assert record.forgetting == kept.loss_after - kept.loss_before > 0.01
    without, other = run_cell_in_module("method=pissa", "retention.num_tokens=0", "train.learning_rate=1e-2")
    assert without.retention is None
    assert without.run_id == record.run_id
    assert without.scores == record.scores
    assert without.training.eval_loss == record.training.eval_loss
    assert other.rows("alignment.jsonl") == cell.rows("alignment.jsonl")
    files = [one.files["trained.safetensors"].sha256 for one in (record, without)]
    assert files[0] == files[1]
