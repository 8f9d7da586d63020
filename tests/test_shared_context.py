"""Likelihoods from trees of tokens, against a pass for each request and against lm-eval's stock HFLM."""

import random
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import yaml
from stock_scores import differences, stock
from zoo.architectures import EAGER, SIZES, SPREAD, ZOO, causal

from bench.score import score, shared_context
from bench.score.language import CausalLM
from bench.score.rows import outcomes
from bench.score.shared_context import SharedContextLM
from bench.score.stage import evaluate
from bench.score.trees import Request, batches, trees
from bench.study.folders import CONF
from bench.tasks.definition import load_definition
from models import scoring, tiny_llama, whole, word_tokenizer
from rows import ROWS

CAUSAL = {name: architecture for name, architecture in ZOO.items() if architecture.kind == "causal"} | {
    "falcon_alibi": causal("FalconConfig", SIZES | SPREAD | {"ffn_hidden_size": 40, "alibi": True}),
    "gpt_neo": causal(
        "GPTNeoConfig",
        {"hidden_size": 24, "num_layers": 2, "num_heads": 4, "intermediate_size": 40, "window_size": 8}
        | {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 192} | SPREAD,
        model="GPTNeoForCausalLM",
    ),
}  # fmt: skip
READ_ALONE = {
    "mistral", "gemma2", "gemma3", "gpt_neo",  # an attention window of fewer tokens than a context
    "bloom", "falcon_alibi", "mamba",  # no position ids
}  # fmt: skip


def requests_of(seed=0, contexts=6, alphabet=4):
    """Contexts of which some begin alike, each with continuations that may be repeated or begin one another."""
    draw = random.Random(seed)
    found = []
    for _ in range(contexts):
        context = [draw.randrange(alphabet) for _ in range(draw.randint(1, 12))]
        found += [(None, context, [draw.randrange(alphabet) for _ in range(draw.randint(1, 4))]) for _ in range(4)]
    return [*found, found[0], (None, [1], [2]), (None, [1, 2, 3] * 6, [0])]


def as_requests(asked):
    return [Request(tuple((c + a)[:-1]), tuple(a), index) for index, (_, c, a) in enumerate(asked)]


# Trees.


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most", [1, 20, 1000])
def test_a_tree_reads_each_request_from_its_root_and_each_shared_token_once(seed, most):
    requests = as_requests(requests_of(seed))
    rows, _ = trees(requests, most)
    assert sorted(request.index for row in rows for request in row.requests) == list(range(len(requests)))
    for row in rows:
        seen = row.ancestry()
        prefixes = {request.tokens[:end] for request in row.requests for end in range(1, len(request.tokens) + 1)}
        assert len(row) == len(prefixes)
        assert len(row) <= most or len({request.tokens for request in row.requests}) == 1 or most == 1
        for request, path in zip(row.requests, row.paths, strict=True):
            assert tuple(row.tokens[node] for node in path) == request.tokens
            assert [row.depths[node] for node in path] == list(range(len(path)))
            for end, node in enumerate(path, start=1):
                assert torch.nonzero(seen[node])[:, 0].tolist() == path[:end]


def test_requests_of_one_context_share_a_row_and_others_where_more_is_shared_than_not():
    few, many = (40, 41, 42), tuple(range(1, 9))
    asked = [(*few, 4, 5), (*few, 6, 7, 8, 9), (*few, 8, 8, 8, 8), (*many, 20), (*many, 21, 22), (*many, 23, 24, 25)]
    num_targets = [1, 2, 5, 1, 1, 1]  # those of the third begin behind `few`
    rows, _ = trees([Request(a, (0,) * n, i) for i, (a, n) in enumerate(zip(asked, num_targets, strict=True))], 100)
    assert sorted(sorted(request.index for request in row.requests) for row in rows) == [[0], [1, 2], [3, 4, 5]]


def test_a_context_whose_choices_exceed_the_bound_is_computed_again_and_counted():
    asked = [((1, 2, 3, 4, answer, answer, answer), (9, 9, 9, 9), answer) for answer in range(5, 9)]
    rows, num_split = trees([Request(*each) for each in asked], 10)
    assert ([len(row) for row in rows], num_split) == ([10, 10], 1)
    rows, num_split = trees([Request(*each) for each in asked], 16)
    assert ([len(row) for row in rows], num_split) == ([16], 0)


def test_rows_are_batched_by_length_within_the_bound_and_with_little_padding():
    rows, _ = trees([Request((n, *range(length)), (0,), n) for n, length in enumerate((9, 2, 8, 9, 3, 30))], 100)
    made = [[len(row) for row in batch] for batch in batches(rows, 20, 0.8)]
    assert made == [[31], [10, 10], [9], [4, 3]] or made == [[31], [10, 10], [9], [4], [3]]


# The same answers.


def both(model, limit=64, batch_tokens=64, tokenizer=None):
    given = {"pretrained": model.eval(), "backend": "causal", "tokenizer": tokenizer or word_tokenizer("causal")}
    given |= {"batch_size": 5, "max_length": limit}
    return CausalLM(**given), SharedContextLM(**given, batch_tokens=batch_tokens)


def assert_equal(found, expected):
    assert len(found) == len(expected)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch_tokens", [1, 12, 500])
def test_answers_are_those_of_hflm_in_the_order_of_the_requests(seed, batch_tokens):
    stock_lm, lm = both(tiny_llama(), batch_tokens=batch_tokens)
    asked = requests_of(seed)
    found = lm._loglikelihood_tokens(asked, disable_tqdm=True)
    assert lm.shared_context is True
    assert_equal(found, stock_lm._loglikelihood_tokens(asked, disable_tqdm=True))


def test_contexts_are_cut_as_hflm_cuts_them():
    stock_lm, lm = both(tiny_llama(), limit=7)
    asked = requests_of()
    assert max(len(context) + len(answer) for _, context, answer in asked) > 8
    assert_equal(lm._loglikelihood_tokens(asked, disable_tqdm=True), stock_lm._loglikelihood_tokens(asked, True))


def test_equal_choices_have_equal_likelihoods_and_each_prefix_is_computed_once(monkeypatch):
    model = tiny_llama()
    _, lm = both(model)
    computed = []
    monkeypatch.setattr(lm, "_reads_trees", lambda rows: True)
    model.register_forward_pre_hook(lambda _, __, given: computed.append(given["input_ids"].numel()), with_kwargs=True)
    one, other, shorter = lm._loglikelihood_tokens([(None, [5, 6, 7], a) for a in ([8, 9], [8, 9], [8])], True)
    assert one == other
    assert one[0] < shorter[0] < 0
    assert sum(computed) == 4


def test_a_choice_is_greedy_if_each_of_its_tokens_is_the_likeliest():
    _, lm = both(tiny_llama())
    with torch.no_grad():
        first = lm.model(torch.tensor([[5, 6]])).logits[0, -1]
        second = lm.model(torch.tensor([[5, 6, first.argmax()]])).logits[0, -1]
    best, next_best, worst = first.argmax().item(), second.argmax().item(), first.argmin().item()
    asked = [[best], [best, next_best], [worst], [best, (next_best + 1) % 50]]
    found = lm._loglikelihood_tokens([(None, [5, 6], each) for each in asked], True)
    assert [greedy for _, greedy in found] == [True, True, False, False]


# Models that read trees, and others.


def built(name):
    small = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}  # as the tests' own tokenizer
    model = replace(CAUSAL[name], settings=CAUSAL[name].settings | small).build()
    if EAGER in CAUSAL[name].overrides:
        model.set_attn_implementation("eager")
    return model


def long_requests(seed=0):
    draw = random.Random(seed)
    contexts = [[draw.randrange(2, 50) for _ in range(draw.randint(1, 30))] for _ in range(5)]
    return [(None, context, [draw.randrange(2, 50) for _ in range(draw.randint(1, 5))]) for context in contexts * 3]


@pytest.mark.parametrize("name", CAUSAL)
def test_every_architecture_answers_as_under_hflm_by_trees_if_it_reads_them(name):
    stock_lm, lm = both(built(name))
    asked = long_requests()
    assert_equal(lm._loglikelihood_tokens(asked, True), stock_lm._loglikelihood_tokens(asked, True))
    assert lm.shared_context is (name not in READ_ALONE)


def test_a_window_that_only_deep_rows_exceed_is_noticed(monkeypatch):
    from transformers import MistralConfig, MistralForCausalLM

    monkeypatch.setattr("bench.score.shared_context.SHORTEST_WINDOW", 30)
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "sliding_window": 32}
    stock_lm, lm = both(MistralForCausalLM(MistralConfig(**sizes)))
    shallow, deep = [(None, [5] * 20, [6, 7])], [(None, list(range(2, 40)), [6, 7])]
    for asked, shared in ((shallow, True), (deep, False), (shallow, False)):
        assert_equal(lm._loglikelihood_tokens(asked, True), stock_lm._loglikelihood_tokens(asked, True))
        assert lm.shared_context is shared


def test_adapters_that_are_merged_or_not_and_bfloat16_weights_read_trees():
    from test_score import METHODS, with_adapters

    for model in (with_adapters(tiny_llama(), *METHODS["lora"])[0], tiny_llama().to(torch.bfloat16)):
        stock_lm, lm = both(model)
        asked = long_requests()
        found, expected = lm._loglikelihood_tokens(asked, True), stock_lm._loglikelihood_tokens(asked, True)
        exact = model.dtype == torch.float32
        assert lm.shared_context is True
        assert [v for v, _ in found] == pytest.approx([v for v, _ in expected], rel=1e-4 if exact else 0.05)


# Memory.


def limited(model, most):
    """Lets a model's forward pass run out of memory above so many tokens."""

    def check(_, args, given):
        if given["input_ids"].numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    return model.register_forward_pre_hook(check, with_kwargs=True)


def test_tokens_at_a_time_are_halved_until_memory_suffices_and_contexts_are_computed_again(monkeypatch):
    from test_score import cola

    model = tiny_llama()
    expected = score(whole(model), cola(), scoring(batch_tokens=400))
    assert (expected.facts.batch_tokens, expected.facts.num_split, expected.facts.shared_context) == (400, 0, True)
    limited(model, 60)
    with pytest.warns(UserWarning, match=r"scoring again with score\.batch_tokens=") as warned:
        found = score(whole(model), cola(), scoring(batch_tokens=400))
    assert [str(w.message).rpartition("=")[2] for w in warned if "again" in str(w.message)] == ["200", "100", "50"]
    assert (found.facts.batch_tokens, found.facts.batch_size, found.facts.num_split) == (50, 8, 0)
    assert not list(differences(found.outcomes, expected.outcomes))


def test_an_item_whose_choices_exceed_the_bound_is_split_and_counted():
    stock_lm, lm = both(tiny_llama(), batch_tokens=20)
    asked = [(None, [5] * 15, [answer] * 5) for answer in range(6, 10)]
    assert_equal(lm._loglikelihood_tokens(asked, True), stock_lm._loglikelihood_tokens(asked, True))
    assert (lm.num_split, lm.batch_tokens) == (1, 20)


def test_a_request_that_does_not_fit_into_memory_alone_is_an_error():
    _, lm = both(tiny_llama())
    lm._reads_trees = lambda rows: True
    limited(lm.model, 10)
    with pytest.warns(UserWarning, match="again"), pytest.raises(torch.OutOfMemoryError):
        lm._loglikelihood_tokens([(None, [5] * 15, [6]), (None, [7] * 15, [6])], True)


# Every task.


@pytest.fixture(scope="module")
def embedded():
    from test_score import CHECKPOINT
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT, padding_side="left")
    return whole(AutoModelForCausalLM.from_pretrained(CHECKPOINT), tokenizer=tokenizer)


def every_task():
    """A task for each dataset and template; generates a few tokens only.

    Without code, which is run, and beams, whose search stop strings do not end here.
    """
    datasets = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "dataset").glob("*.yaml")}
    for name, dataset in sorted(datasets.items()):
        for template, definition in dataset["definitions"].items():
            if "humaneval" not in definition and template != "beams":
                task = load_definition(name, definition, {"test": ROWS[name]}, "test")
                if task.OUTPUT_TYPE == "generate_until":
                    task.config.generation_kwargs["max_gen_toks"] = 9
                yield f"{name}_{template}", task


@pytest.mark.filterwarnings("ignore:.* are longer than the .* tokens that the model takes")
def test_every_task_is_answered_as_under_hflm(embedded):
    tasks = dict(every_task())
    found = {}
    for way in (nullcontext, stock):
        with way():
            found[way], facts = evaluate(embedded, tasks, scoring(), None, 8, bootstrap_draws=0)
        assert facts.shared_context is (True if way is nullcontext else None)
    generates = {name for name, task in tasks.items() if task.OUTPUT_TYPE == "generate_until"}
    ours, expected = (outcomes(found[way], tasks) for way in (nullcontext, stock))
    assert not list(differences(ours, expected, generates))
    assert {outcome.task for outcome in ours} == tasks.keys()
    assert len(tasks) > 40


def test_what_is_nearly_certain_keeps_its_digits():
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)) + 30
    at = torch.tensor([0, 3, 3, 6, 1])
    wanted = torch.tensor([4, 9, 10, 49, 4])
    logits[at, wanted] += 12
    expected = logits.double().log_softmax(dim=-1)[at, wanted]
    found = shared_context._log_probabilities(logits, at, wanted, rows=2)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)
