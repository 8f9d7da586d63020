"""Batches of texts are encoded as each would be alone, and come back from tensors and from the cache as they were."""

import json
from dataclasses import replace
from datetime import datetime

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_of_kinds import KINDS, TEMPLATES, tokenizer

from bench.cache import main
from bench.process.store import Cache, entries
from bench.tasks import reader, source
from bench.tasks.data import Dataset, HubDataset
from bench.tasks.encoded import Examples
from bench.tasks.examples import (
    IGNORED,
    Classification,
    Example,
    classify,
    encode,
    encode_prompts,
    encode_seq2seq,
    encode_texts,
)
from models import word_tokenizer

TOKENIZERS = [tokenizer(kind, name, name_or_path=f"{kind} {name}") for kind in KINDS for name in TEMPLATES]
PIECES = [
    "the",
    "cat",
    " ma",
    "ny",
    " many",
    "bird",
    " ",
    "  ",
    "\n",
    " \n ",
    "<s>",
    "</s>",
    "é",
    "日本",
    "🐦",
    "0",
    ",",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS.filter(bool)), min_size=1, max_size=5)


def opened_by(of):
    return [of.convert_tokens_to_ids("<s>")] if of.name_or_path.endswith(("bos", "both")) else []


def alone(of, prompt, target):
    """A causal model's prompt and target, text by text, with the tokenizer's backend only."""

    def plain(text):
        return of.backend_tokenizer.encode(text, add_special_tokens=False).ids

    bos, eos = of.convert_tokens_to_ids(["<s>", "</s>"])
    start = opened_by(of)
    ids, whole = plain(prompt), plain(prompt + target)
    behind = whole[len(ids) :] if whole[: len(ids)] == ids else []
    if not behind:
        line_break, after = plain("\n"), plain("\n" + target)
        behind = after[len(line_break) :] if after[: len(line_break)] == line_break else plain(target)
    if ids[: len(start)] != start:
        ids = start + ids
    return ids or [eos if of.bos_token_id is None else bos], behind


@pytest.mark.parametrize("of", TOKENIZERS, ids=lambda of: of.name_or_path)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(pairs=PAIRS)
def test_texts_of_a_batch_have_the_tokens_that_each_has_alone(of, pairs):
    expected, end = [alone(of, *pair) for pair in pairs], [of.eos_token_id]
    examples = encode(of, pairs)
    assert [(e.input_ids, e.labels) for e in examples] == [
        (ids + behind + end, [IGNORED] * len(ids) + behind + end) for ids, behind in expected
    ]
    assert encode_prompts(of, [prompt for prompt, _ in pairs], "causal") == [ids for ids, _ in expected]
    for example, (prompt, target) in zip(encode_seq2seq(of, pairs, 5), pairs, strict=True):
        ids, labels = of(prompt).input_ids, [*opened_by(of), *of(target, add_special_tokens=False).input_ids, *end]
        assert (example.input_ids, example.labels) == (ids[-5:], labels[:5])
        assert example.truncated == (len(ids) > 5 or len(labels) > 5)
    texts = [prompt + target for prompt, target in pairs]
    assert encode_texts(of, texts, 6) == [window for text in texts for window in encode_texts(of, [text], 6)]


def test_no_texts_have_no_tokens():
    of = TOKENIZERS[0]
    assert encode(of, []) == encode_seq2seq(of, [], 4) == encode_texts(of, [], 4) == encode_prompts(of, [], "causal")
    assert classify(word_tokenizer(), [], Classification(("a",), 2), 4) == []


@pytest.mark.parametrize(("texts", "num_labels"), [(("a",), 2), (("a", "b"), 2), (("a", "b"), 1)])
def test_rows_of_a_batch_are_classified_as_each_would_be_alone(texts, num_labels):
    of = word_tokenizer()
    rows = [{"a": "the cat " * n, "b": "no bird", "label": n % 2} for n in (1, 2, 5, 0, 9)]
    found = classify(of, rows, Classification(texts, num_labels), 8)
    for row, example in zip(rows, found, strict=True):
        whole = of(*(row[name] for name in texts))
        cut = of(*(row[name] for name in texts), truncation=True, max_length=8)
        assert (example.input_ids, example.token_type_ids) == (cut.input_ids, cut.get("token_type_ids"))
        assert example.truncated == (len(whole.input_ids) > 8)
        assert (example.labels, type(example.labels)) == (row["label"], float if num_labels == 1 else int)
    assert [example.truncated for example in found] == [len(e.input_ids) == 8 for e in found]


OF_KINDS = {
    "causal": [
        Example([5, 6, 7], [IGNORED, 6, 7]),
        Example([5, 8], [IGNORED, 8]),
        Example([9] * 4, [IGNORED] * 3 + [9]),
    ],
    "seq2seq": [Example([5, 6, 7], [8, 9]), Example([5], [8, 4, 7], truncated=True), Example([2, 2], [3])],
    "encoder": [Example([5, 6], 1, [0, 1]), Example([5], 0, [0], truncated=True), Example([5, 7, 8], 2, [0, 0, 1])],
    "regression": [Example([5, 6], 0.1), Example([5], 3.0), Example([5, 7, 8], 1 / 3)],
}


@pytest.mark.parametrize("kind", OF_KINDS)
def test_examples_come_back_from_tensors_as_they_were(kind, tmp_path):
    examples = OF_KINDS[kind]
    cache = Cache(enabled=True, dir=tmp_path, max_gb=1.0)
    made, _ = cache.fetch("key", "title", lambda: Examples.of(examples), Examples)
    kept, read = cache.fetch("key", "title", pytest.fail, Examples)
    assert read
    for found in (made, kept):
        assert list(found) == examples
        assert found[-1] == examples[-1]
        assert found.num_tokens.tolist() == [example.num_tokens for example in examples]
        assert found.truncated.tolist() == [example.truncated for example in examples]
    twice = Examples.joined([kept, Examples.of(examples[:2])])
    assert list(twice) == examples + examples[:2]
    order = [4, 0, 2]
    assert list(twice.picked(torch.tensor(order))) == [[*examples, *examples[:2]][i] for i in order]
    assert list(twice.picked(torch.tensor([], dtype=torch.long))) == []


# The cache for other processes


@pytest.fixture
def another_process(monkeypatch):
    """Forgets what this process has read."""
    return lambda: monkeypatch.setattr(source, "_sources", {})


@pytest.fixture
def cache(tmp_path):
    return Cache(enabled=True, dir=tmp_path / "cache", max_gb=1.0)


LONG = "Which of all the words of this question are in both of the splits?"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    for split, number in (("train", 90), ("test", 3)):
        rows = [{"question": f"{split} {i}?" + " Why?" * 2 * (i % 9), "answer": f"#### {i}"} for i in range(number)]
        rows += [{"question": LONG, "answer": "#### 1"}] * (20 if split == "train" else 1)
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


FEW = ("task.validation_samples=20", "task.calibration_samples=8", "task.probe_samples=4", "task.max_length=60")


@pytest.fixture
def loaded(compose_run):
    return compose_run().model.load()


@pytest.fixture
def unread(monkeypatch):
    """Lets nothing be read, rendered or encoded."""
    for place in ("encode", "encode_seq2seq", "encode_texts", "classify"):
        monkeypatch.setattr(reader, place, lambda *_: pytest.fail("was encoded again"))
    monkeypatch.setattr(Dataset, "load", lambda *_: pytest.fail("was read again"))


@pytest.mark.parametrize("split", ["test", "validation"])
def test_another_process_reads_no_rows_and_has_the_same_examples_facts_and_warnings(
    compose_run, loaded, folder, cache, another_process, request, split
):
    task = compose_run("task=gsm8k", f"data.root={folder}", *FEW).task
    another_process()
    with pytest.warns(UserWarning, match="are left out") as warned:
        first = task.prepare(loaded, 0, split, True, cache)
    another_process()
    request.getfixturevalue("unread")
    task.read(split, True, cache)
    with pytest.warns(UserWarning, match="are left out") as warned_again:
        second = task.prepare(loaded, 0, split, True, cache)
    assert list(second.train) == list(first.train)
    assert second.eval_examples == first.eval_examples
    assert second.facts == first.facts
    assert second.facts.num_dropped > 0 < second.facts.contaminated["gsm8k"]
    assert list(second.evaluations["gsm8k"].docs()) == list(first.evaluations["gsm8k"].docs())
    assert torch.equal(second.probe["labels"], first.probe["labels"])
    said = [[str(one.message) for one in each] for each in (warned, warned_again)]
    assert said[0] == said[1]
    for what in ("incomplete: gsm8k train: 110 of 7473 rows; it is published", "are left out", "contamination: "):
        assert any(what in message for message in said[0])


@pytest.mark.filterwarnings("ignore")
def test_what_is_encoded_differently_is_encoded_again(compose_run, loaded, folder, cache, another_process):
    def made(*overrides, of=loaded):
        another_process()
        compose_run("task=gsm8k", f"data.root={folder}", *FEW, *overrides).task.prepare(of, 0, "test", True, cache)
        return len(entries(cache.folder))

    assert made() == made() == made("task.calibration_samples=7", "task.eval_samples=3") == 4
    assert made("task.max_length=61") == 6
    assert made("task.template=alpaca", "task.max_length=400") == 10
    other = compose_run().model.load()
    other.tokenizer.add_tokens(["zebra"])
    assert made(of=other) == 12
    assert made("task.train_samples=70") == 16
    path = folder / "gsm8k" / "test.jsonl"
    path.write_text(path.read_text() + json.dumps({"question": "?", "answer": "#### 1"}) + "\n")
    assert made() == 18  # the training rows are the same
    path = folder / "gsm8k" / "train.jsonl"
    path.write_text(path.read_text() + json.dumps({"question": "?", "answer": "#### 1"}) + "\n")
    assert made() == 22


@pytest.mark.filterwarnings("ignore")
def test_a_tokenizer_without_a_hash_encodes_each_time_and_a_cache_switched_off_keeps_nothing(
    compose_run, loaded, folder, cache, another_process, monkeypatch
):
    task = compose_run("task=gsm8k", f"data.root={folder}", *FEW).task
    another_process()
    off = replace(cache, enabled=False)
    expected = list(task.prepare(loaded, 0, "test", True, off).train)
    assert not cache.folder.exists()
    monkeypatch.setattr(reader, "tokenizer_sha256", lambda _: None)
    assert list(task.prepare(loaded, 0, "test", True, cache).train) == expected
    assert not any(" tokens" in entry.title for entry in entries(cache.folder))


def test_what_a_branch_of_the_hub_holds_is_not_kept_and_what_a_commit_holds_is(
    compose_run, cache, another_process, monkeypatch
):
    import datasets

    when = datetime(2026, 1, 1)  # of a column that no definition reads, and JSON cannot hold
    rows = [{"question": f"{i}?", "answer": "#### 1", "when": when} for i in range(3)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    task = compose_run("task=gsm8k", "method=none").task
    another_process()
    for revision, kept in (("main", 0), ("a" * 40, 1)):
        hub = HubDataset("nobody/words", None, revision)
        pinned = replace(task, datasets={"gsm8k": replace(task.datasets["gsm8k"], hub=hub)})
        known = pinned.read("test", False, cache)["gsm8k"].known(cache)
        assert (known.num_rows, known.scored) == ({"test": 3}, None)
        assert len(entries(cache.folder) if cache.folder.exists() else []) == kept


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_changes_while_it_is_read_is_refused(compose_run, folder, cache, another_process, monkeypatch):
    load = Dataset.load

    def slowly(self, *arguments):
        found = load(self, *arguments)
        path = folder / "gsm8k" / "train.jsonl"
        path.write_text(path.read_text() + "\n")
        return found

    monkeypatch.setattr(Dataset, "load", slowly)
    another_process()
    with pytest.raises(ValueError, match=r"gsm8k below .* changed while a run began; try again"):
        compose_run("task=gsm8k", f"data.root={folder}", *FEW).task.read("test", True, cache)
    assert not entries(cache.folder)


@pytest.mark.filterwarnings("ignore")
def test_the_listing_says_what_is_kept_of_a_dataset(compose_run, loaded, folder, cache, another_process, capsys):
    another_process()
    compose_run("task=gsm8k", f"data.root={folder}", *FEW).task.prepare(loaded, 0, "test", True, cache)
    main(["--dir", str(cache.folder)])
    listed = capsys.readouterr().out
    for title in (
        "gsm8k, rows of test, train, validation",
        "gsm8k, train as causal tokens, at most 60",
        "gsm8k, validation as causal tokens, at most 60",
        "gsm8k, items of test that occur in gsm8k",
    ):
        assert title in listed
