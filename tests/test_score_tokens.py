"""What a model reads when it is scored is what it read when it was trained, whatever the tokenizer's template."""

import inspect
import math
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml
from tokenizers_of_kinds import BOS, EOS, KINDS, TEMPLATES, VOCABULARY, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from bench.score import check, score
from bench.tasks.data import Carving, Dataset, LoadedRows, Splits
from bench.tasks.examples import IGNORED, Classification, collate
from bench.tasks.reader import Reader
from bench.tasks.source import Source
from models import scoring, tiny_bart, tiny_bert, tiny_llama, tiny_t5, whole

LIMIT = 24
PROMPTS = ["the cat", "the dog sees a", "a small ma", "the old man \n", "the bird  ", "", "<s>the girl"]
CHOICES = ["eats", "sees the man", "not"]
METRICS = {"generate_until": "exact_match", "multiple_choice": "acc", "loglikelihood": "perplexity"}
BOTH = pytest.mark.parametrize("template", TEMPLATES)
EACH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def source(monkeypatch, tmp_path):
    """Makes a dataset of rows under a definition that is written for it."""
    monkeypatch.setattr("bench.tasks.definition_files.OWN", tmp_path)

    def make(output_type, prompts=PROMPTS, classification=None, **changed):
        rows = [{"text": text, "pair": "a bird", "label": label} for text in prompts for label in range(len(CHOICES))]
        targets = {"multiple_choice": "label", "loglikelihood_rolling": "{{text}}"}
        config = {"task": "mine", "output_type": output_type, "doc_to_text": "{{text}}"}
        config["doc_to_target"] = targets.get(output_type, "ny eats {{label}}")  # " ma" and "ny" might be one token
        config |= {"doc_to_choice": CHOICES} if output_type == "multiple_choice" else {}
        config |= {"metric_list": [{"metric": METRICS.get(output_type, "word_perplexity")}]}
        if output_type == "generate_until":
            config["generation_kwargs"] = {"until": ["§"], "do_sample": False, "max_gen_toks": 3}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config | changed))
        fields = {"text": "text", "pair": "text", "label": list(range(len(CHOICES)))}
        dataset = Dataset("mine", fields, {"default": "mine.yaml"}, None, Splits("train", "test"), {}, classification)
        made = Source("mine", dataset, "mine.yaml", None, frozenset(), Carving(1), None, {})
        vars(made)["_loaded"] = LoadedRows({"train": rows, "validation": rows[:1], "test": rows})  # are not read
        return made

    return make


def watched(module):
    """The arguments of each call of a module's forward, by name; but of calls that go on from a cache."""
    names, calls = list(inspect.signature(module.forward).parameters), []

    def note(_, args, given):
        given = {k: v for k, v in (dict(zip(names, args, strict=False)) | given).items() if v is not None}
        if "past_key_values" not in given or not given["past_key_values"].get_seq_length():
            calls.append(given)

    return module.register_forward_pre_hook(note, with_kwargs=True), calls


def read_by(module, act):
    hook, calls = watched(module)
    with torch.no_grad():
        act()
    hook.remove()
    return calls


def scored(model, kind, given, tokenizer, num_fewshot=0, **settings):
    tasks = {"mine": given.evaluation("test", num_fewshot)}
    return score(whole(model, kind, tokenizer), tasks, scoring(**{"limit": None, "batch_size": 1} | settings))


def unpadded(call):
    masks = call.get("attention_mask", torch.ones_like(call["input_ids"])).tolist()
    rows = zip(call["input_ids"].tolist(), masks, strict=True)
    return [tuple(token for token, seen in zip(ids, mask, strict=True) if seen) for ids, mask in rows]


@pytest.fixture(autouse=True)
def no_trials(monkeypatch):
    """Leaves out what a model is given only to see how it can be scored."""
    monkeypatch.setattr("bench.score.shared_context.SharedContextLM._reads_trees", lambda *_: True)
    monkeypatch.setattr("bench.score.generation.EndedRowsLeaveLM._cache", DynamicCache())


def branches(calls):
    """The tokens from the root to each leaf of the trees that a model is given."""
    found = set()
    for call in calls:
        for ids, positions, seen in zip(call["input_ids"], call["position_ids"], call["attention_mask"], strict=True):
            paths = [torch.nonzero(row)[:, 0] for row in seen[0]]  # each token's, and that of padding is itself alone
            inner = {int(node) for path in paths for node in path[:-1]}
            for node, path in enumerate(paths):
                if node not in inner and (len(path) > 1 or node == 0):
                    assert positions[path].tolist() == list(range(len(path)))
                    found.add(tuple(ids[path].tolist()))
    return found


def read_as(calls, expected):
    """Whether these sequences are read and no others; one may be the beginning of another."""
    leaves = branches(calls)
    return leaves <= expected and all(any(leaf[: len(each)] == each for leaf in leaves) for each in expected)


def llama():
    return tiny_llama(vocab_size=VOCABULARY, max_position_embeddings=LIMIT).eval()


def log_likelihood(model, example, counted):
    """Of the first label tokens of an example, by one forward pass over what is trained on."""
    with torch.no_grad():
        logits = model(torch.tensor([example.input_ids])).logits[0].float().log_softmax(-1)
    places = [i for i, label in enumerate(example.labels) if label != IGNORED][:counted]
    return sum(logits[i - 1, example.input_ids[i]].item() for i in places)


def num_answer_tokens(example):
    return sum(label != IGNORED for label in example.labels) - 1  # but EOS


@BOTH
@EACH
@pytest.mark.parametrize("delimiter", [" ", ""])
def test_a_causal_models_choice_is_read_behind_its_prompt_as_in_training(source, kind, template, delimiter):
    model, words = llama(), tokenizer(kind, template)
    given = source("multiple_choice", target_delimiter=delimiter)
    examples = list(given.encoded(Reader(words, "causal", LIMIT))["train"])
    outcomes = []
    calls = read_by(model, lambda: outcomes.extend(scored(model, "causal", given, words).outcomes))
    # Neither EOS nor the last token, which is predicted.
    assert read_as(calls, {tuple(example.input_ids[:-2]) for example in examples})
    for start in range(0, len(examples), len(CHOICES)):
        trained = examples[start : start + len(CHOICES)]
        expected = [log_likelihood(model, example, num_answer_tokens(example)) for example in trained]
        assert [value for value, _ in eval(outcomes[start].response)] == pytest.approx(expected, abs=1e-3)


@BOTH
@EACH
def test_a_causal_model_writes_behind_the_tokens_of_the_trained_prompt(source, kind, template):
    model, words = llama(), tokenizer(kind, template)
    given = source("generate_until")
    examples = given.encoded(Reader(words, "causal", LIMIT))["train"]
    calls = read_by(model, lambda: scored(model, "causal", given, words, batch_size=8))
    read = {ids for call in calls for ids in unpadded(call)}
    assert read == {tuple(e.input_ids[: e.labels.count(IGNORED)]) for e in examples}


@BOTH
@EACH
def test_a_target_and_a_text_are_read_as_in_training(source, kind, template):
    model, words = llama(), tokenizer(kind, template)
    for given in (source("loglikelihood"), source("loglikelihood_rolling", ["the cat sees a man " * 9, "a big dog"])):
        examples = given.encoded(Reader(words, "causal", LIMIT))["train"]
        calls = read_by(model, lambda given=given: scored(model, "causal", given, words))
        last = 2 if given.evaluation("test", 0).OUTPUT_TYPE == "loglikelihood" else 1
        assert read_as(calls, {tuple(example.input_ids[:-last]) for example in examples})


@BOTH
@EACH
def test_what_is_trained_after_a_prompt_says_the_target_and_ends_once(source, kind, template):
    words = tokenizer(kind, template)
    given = source("generate_until", target_delimiter="")
    pairs = given._pairs("train")
    for (prompt, target), example in zip(pairs, given.encoded(Reader(words, "causal", LIMIT))["train"], strict=True):
        assert example.input_ids.count(words.eos_token_id) == (2 if template in ("none", "eos") and not prompt else 1)
        assert example.labels[-1] == words.eos_token_id
        assert example.input_ids.count(BOS) <= 1
        if kind != "word_piece":
            assert words.decode(example.input_ids, skip_special_tokens=True) == (prompt + target).removeprefix("<s>")


# Sequence-to-sequence models and encoders.

LONG = ["the cat " * 20]


def read_in_both(model, examples, act):
    """What encoder and decoder read of single examples in training, and when scored."""
    found = []
    for read in (lambda: [model(**collate([example], 0)) for example in examples], act):
        encoder, calls = watched(model.get_encoder())
        hook, decoder_calls = watched(model.get_decoder())
        with torch.no_grad():
            read()
        encoder.remove()
        hook.remove()
        found.append(({ids for call in calls for ids in unpadded(call)}, [c["input_ids"] for c in decoder_calls]))
    return found


@BOTH
@pytest.mark.parametrize(("build", "kind"), [(tiny_t5, "unigram"), (tiny_bart, "byte_level"), (tiny_t5, "word_piece")])
def test_an_encoder_decoder_reads_prompts_and_choices_as_in_training(source, build, kind, template):
    model, words = build(vocab_size=VOCABULARY).eval(), tokenizer(kind, template, model_max_length=64)
    given = source("multiple_choice", PROMPTS[:5] + LONG)
    examples = given.encoded(Reader(words, "seq2seq", 64))["train"]
    (trained, labels), (read, choices) = read_in_both(model, examples, lambda: scored(model, "seq2seq", given, words))
    assert read == trained
    assert {tuple(ids[0].tolist()[:-1]) for ids in labels} == {tuple(ids[0].tolist()) for ids in choices}  # but EOS
    assert all(example.labels.count(words.eos_token_id) == 1 for example in examples)
    given = source("generate_until", PROMPTS[:5] + LONG)
    examples = given.encoded(Reader(words, "seq2seq", 64))["train"]
    (trained, labels), (read, written) = read_in_both(
        model, examples, lambda: scored(model, "seq2seq", given, words, batch_size=4)
    )
    assert read == trained
    assert {ids[0, 0].item() for ids in labels} == {token for ids in written for token in ids[:, 0].tolist()}


@pytest.mark.parametrize("template", ["none", "both"])
def test_an_encoder_decoder_is_trained_and_generates_behind_the_templates_opening(source, monkeypatch, template):
    model, words = tiny_bart(vocab_size=VOCABULARY).eval(), tokenizer("byte_level", template, model_max_length=64)
    given, written = source("generate_until", ["the cat"], target_delimiter="", doc_to_target="{{pair}}"), []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **asked: written.append(generate(**asked)) or written[-1])
    scored(model, "seq2seq", given, words)
    start = [BOS] if template == "both" else []
    (example,) = given.encoded(Reader(words, "seq2seq", 64))["validation"]
    assert example.labels == [*start, *words("a bird", add_special_tokens=False).input_ids, EOS]
    first = [model.config.decoder_start_token_id, *start]
    assert all(ids[0, : len(first)].tolist() == first for ids in written)
    assert all(ids.shape[1] == len(first) + 3 for ids in written)  # max_gen_toks


@BOTH
@pytest.mark.parametrize("texts", [("text",), ("text", "pair")])
def test_an_encoder_reads_texts_as_in_training(source, template, texts):
    model, words = tiny_bert(3, vocab_size=VOCABULARY), tokenizer("word_piece", template, model_max_length=64)
    given = source("multiple_choice", ["the cat", "a big dog"], classification=Classification(texts, 3))
    examples = given.encoded(Reader(words, "encoder", 64))["train"]
    names = ("input_ids", "attention_mask", "token_type_ids")

    def seen(calls):
        return [[call[name].tolist() for name in names if name in call] for call in calls]

    scored_calls = read_by(model, lambda: scored(model, "encoder", given, words, batch_size=64))
    longest_first = sorted(examples, key=lambda example: -len(example.input_ids))
    assert seen(scored_calls) == seen(read_by(model, lambda: model(**collate(longest_first, words.pad_token_id))))


# vLLM.


ASKED_OF_VLLM = []


class LLM:
    """In place of vLLM's, answered by transformers."""

    def __init__(self, model, **_):
        self.model = AutoModelForCausalLM.from_pretrained(model).eval()

    def generate(self, prompts, sampling_params, **_):
        ASKED_OF_VLLM.extend(tuple(prompt) for prompt in prompts)
        return [self.answer(ids, asked) for ids, asked in zip(prompts, sampling_params, strict=True)]

    @torch.no_grad()
    def answer(self, ids, asked):
        if "prompt_logprobs" not in asked:
            return SimpleNamespace(outputs=[SimpleNamespace(text="eats")])
        logits = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        known = [{ids[i + 1]: logits[i, ids[i + 1]].item()} for i in range(len(ids) - 1)]
        return SimpleNamespace(prompt_logprobs=[None, *known])


@pytest.fixture
def vllm(monkeypatch, tmp_path):
    """What lm-eval's class for vLLM imports; gives the tokens that vLLM is asked about."""
    modules = {
        "vllm": {"LLM": LLM, "SamplingParams": dict, "TokensPrompt": lambda prompt_token_ids: prompt_token_ids},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": None},
        "vllm.tokenizers": {"get_tokenizer": lambda path, **_: AutoTokenizer.from_pretrained(path)},
    }
    for name, held in modules.items():
        module = ModuleType(name)
        module.__dict__.update(held, __spec__=ModuleSpec(name, None))
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "vllm-0.8.2.dist-info").mkdir()
    (tmp_path / "vllm-0.8.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.8.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    return ASKED_OF_VLLM


@BOTH
def test_vllm_is_given_the_tokens_of_training_and_one_token_of_room(source, vllm, template):
    model, words = llama(), tokenizer("byte_level", template)
    for output_type in ("multiple_choice", "loglikelihood", "generate_until"):
        given = source(output_type)
        examples = given.encoded(Reader(words, "causal", LIMIT))["train"]
        vllm.clear()
        scored(model, "causal", given, words, backend="vllm")
        generates = output_type == "generate_until"
        ends = [example.labels.count(IGNORED) if generates else -1 for example in examples]
        assert set(vllm) == {tuple(e.input_ids[:end]) for e, end in zip(examples, ends, strict=True)}
    given = source("loglikelihood_rolling", ["the cat sees a man " * 9, "a big dog"])
    expected = {tuple(example.input_ids) for example in given.encoded(Reader(words, "causal", LIMIT - 1))["train"]}
    vllm.clear()
    scored(model, "causal", given, words, backend="vllm")
    assert set(vllm) == expected


# Solved examples.


@BOTH
def test_solved_examples_are_the_same_in_every_evaluation_and_end_in_no_end_of_sequence(source, template):
    model, words = tiny_llama(vocab_size=VOCABULARY, max_position_embeddings=256), tokenizer("byte_level", template)
    given = source("generate_until", [f"the {word} eats" for word in "cat dog bird man girl tree".split()])
    tasks = {"mine": given.evaluation("test", 2)}

    def asked(**settings):
        calls = read_by(model, lambda: score(whole(model, "causal", words), tasks, scoring(**settings)))
        return [ids for call in calls for ids in unpadded(call)]

    first = asked(limit=None)
    assert len(set(first)) == len(first) == 18
    assert asked(limit=None) == first
    assert set(asked(limit=4)) <= set(first)
    assert {ids[0] == BOS for ids in first} == {template in ("bos", "both")}
    assert not any(EOS in ids or BOS in ids[1:] for ids in first)


def test_more_solved_examples_than_training_rows_are_refused(source):
    given = source("generate_until", ["the cat"])
    assert given.evaluation("test", 3).config.num_fewshot == 3
    with pytest.raises(ValueError, match=r"task\.num_fewshot=4, but mine has 3 training rows .* task\.train_samples"):
        given.evaluation("test", 4)


# Perplexity.


@pytest.mark.parametrize("template", ["bos", "both"])
def test_perplexity_counts_each_token_of_a_text_once_and_no_bos(source, template):
    model, words = llama(), tokenizer("byte_level", template)
    given = source("loglikelihood_rolling", ["the cat sees a"])
    (found,) = scored(model, "causal", given, words, limit=1).scores
    ids = [BOS, *words(given.evaluation("test", 0).eval_docs[0]["text"], add_special_tokens=False).input_ids]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = logits[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum().item()
    assert found.value == pytest.approx(math.exp(-expected / 4), rel=1e-4)  # of four words


@pytest.mark.parametrize("output_type", ["loglikelihood", "loglikelihood_rolling"])
def test_a_perplexity_that_no_float_holds_is_infinite(source, output_type):
    model, words = llama(), tokenizer("byte_level", "none")
    with torch.no_grad():
        model.lm_head.weight *= 1e4
    given = source(output_type, ["the cat sees a man"])
    (found,) = scored(model, "causal", given, words).scores
    assert found.value == math.inf


def test_a_perplexity_that_a_float_holds_keeps_its_standard_error(source):
    (found,) = scored(llama(), "causal", source("loglikelihood"), tokenizer("byte_level", "none")).scores
    assert 1 < found.value < math.inf
    assert 0 < found.stderr < math.inf


# Answers that cannot be scored.


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
@pytest.mark.parametrize("output_type", ["multiple_choice", "loglikelihood"])
def test_an_answer_longer_than_the_model_takes_or_without_a_token_is_refused_before_training(source, kind, output_type):
    model = llama() if kind == "causal" else tiny_t5(vocab_size=VOCABULARY)
    words = tokenizer("byte_level", "both", model_max_length=LIMIT)
    most = LIMIT - (kind == "seq2seq")  # whose decoder writes BOS before an answer
    field = "doc_to_target" if output_type == "loglikelihood" else "doc_to_choice"

    def tried(answer, act, **settings):
        value = answer if output_type == "loglikelihood" else ["eats", "not", answer]
        given = source(output_type, ["the cat"], target_delimiter="", **{field: value})
        act(whole(model, kind, words), {"mine": given.evaluation("test", 0)}, scoring(**settings))

    tried("0" * most, score)
    for number in [most + 1] + [0] * (output_type == "loglikelihood"):
        with pytest.raises(
            ValueError, match=f"mine: an answer of item 0 has {number} tokens, and 1 to {most} can be scored: '0*'"
        ):
            tried("0" * number, check)
