"""Generation in batches that ended rows leave, against lm-eval's stock HFLM."""

import random

import pytest
import torch
from lm_eval.api.instance import Instance
from test_shared_context import CAUSAL, both, built

from models import PLAIN_WORDS, tiny_llama


def prompts(number=13, seed=0, words=(1, 25)):
    draw = random.Random(seed)
    return [" ".join(draw.choices(PLAIN_WORDS, k=draw.randint(*words))) for _ in range(number)]


def asked(texts, until, max_gen_toks=20, **given):
    kwargs = {"until": until, "do_sample": False, "max_gen_toks": max_gen_toks} | given
    return [Instance("generate_until", {}, (text, kwargs), index) for index, text in enumerate(texts)]


def rows_computed(lm, requests):
    """What is generated, and how many rows the model computes a token of."""
    rows = []
    hook = lm.model.register_forward_pre_hook(
        lambda _, __, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    found = lm.generate_until(requests, disable_tqdm=True)
    hook.remove()
    return found, sum(rows)


@pytest.mark.parametrize("name", CAUSAL)
def test_every_architecture_writes_what_it_writes_under_hflm(name):
    stock_lm, lm = both(built(name))
    whole = lm.generate_until(asked(prompts(), []), disable_tqdm=True)
    assert whole == stock_lm.generate_until(asked(prompts(), []), disable_tqdm=True)
    # Stop strings of one token, and of several, that some of the answers hold.
    first, second = sorted(whole, key=lambda text: -len(text.split()))[:2]
    requests = asked(prompts(), [first.split()[2], " ".join(second.split()[4:6])])
    found = lm.generate_until(requests, disable_tqdm=True)
    assert found == stock_lm.generate_until(requests, disable_tqdm=True)
    assert whole != found


def uneven():
    """A model some of whose answers end early: by EOS, or by one of two stop strings; and requests of it."""
    model = tiny_llama(eos_token_id=2)
    model.generation_config.eos_token_id = [2, 7]
    return model, asked(prompts(), ["bird", "dog eats", "is"])


def test_rows_that_have_ended_are_not_computed():
    model, requests = uneven()
    stock_lm, lm = both(model)
    assert lm._cache  # found out by a token
    (expected, all_rows), (found, rows) = rows_computed(stock_lm, requests), rows_computed(lm, requests)
    assert found == expected
    assert len({len(text.split()) for text in expected}) > 3
    assert rows < all_rows
    # Of a batch of five the rows leave one by one: each is computed until its own end.
    assert rows == sum(rows_computed(lm, [request])[1] for request in requests)


def test_a_special_token_at_which_only_the_tokenizer_says_to_stop_ends_a_row_as_it_ends_hflms_only_row():
    """HFLM goes on until all rows of a batch have met the token, and then reads on behind it."""
    model, requests = uneven()
    model.generation_config.eos_token_id = None
    stock_lm, lm = both(model)
    found = lm.generate_until(requests, disable_tqdm=True)
    assert found != stock_lm.generate_until(requests, disable_tqdm=True)
    stock_lm.batch_size_per_gpu = 1
    assert found == stock_lm.generate_until(requests, disable_tqdm=True)


@pytest.mark.parametrize("limit", [24, 30])
def test_prompts_are_cut_to_what_leaves_room_for_the_answer(limit):
    model, requests = uneven()
    stock_lm, lm = both(model, limit=limit)
    assert lm.generate_until(requests, disable_tqdm=True) == stock_lm.generate_until(requests, disable_tqdm=True)


def test_what_is_drawn_or_searched_for_is_left_to_hflm(monkeypatch):
    model, _ = uneven()
    stock_lm, lm = both(model)
    for given in ({"num_beams": 2}, {"do_sample": True, "temperature": 0.7}):
        requests, found = asked(prompts(3), ["bird"], 5, **given), []
        for each in (stock_lm, lm):
            torch.manual_seed(0)
            found.append(each.generate_until(requests, disable_tqdm=True))
        assert found[0] == found[1]


def test_a_cache_that_has_no_rows_to_select_is_left_to_hflm():
    from transformers import RwkvConfig, RwkvForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "context_length": 64}
    stock_lm, lm = both(RwkvForCausalLM(RwkvConfig(**sizes, eos_token_id=2, bos_token_id=1)))
    requests = asked(prompts(), ["cat", "is"])
    assert lm.generate_until(requests, disable_tqdm=True) == stock_lm.generate_until(requests, disable_tqdm=True)
