import itertools
import random

import pytest
import torch
from architectures import ZOO

from bench.model.loss import IGNORED, mean_loss, num_label_tokens, projects_labels
from bench.model.packing import understands_packing
from bench.model.pieces import Cutter, cost, num_samples, packed_rows, sorted_rows
from bench.tasks.examples import Example, collate
from models import PAD, tiny_bert, tiny_llama, tiny_t5

GENERATING = [name for name, architecture in ZOO.items() if architecture.kind in ("causal", "seq2seq")]
PACKABLE = "gemma2 gemma3 gpt2 llama mistral mixtral phi3 pythia qwen2 qwen3 qwen3_moe".split()


def examples(number, kind="causal", vocabulary=45, longest=20):
    """Examples of uneven lengths, always the same."""
    drawn = random.Random(number)
    found = []
    for _ in range(number):
        prompt, target = drawn.randint(2, longest), drawn.randint(1, 5)
        ids = [drawn.randint(4, vocabulary) for _ in range(prompt + target)]
        if kind == "causal":
            found.append(Example(ids, [IGNORED] * prompt + ids[prompt:]))
        else:
            found.append(Example(ids[:prompt], ids[prompt:] if kind == "seq2seq" else drawn.randint(0, 1)))
    return found


def in_small_pieces(model, **settings):
    """A cutter that makes several pieces even of a tiny model's batch."""
    cutter = Cutter(model, **settings)
    cutter.pass_tokens, cutter.most_tokens = 8, 64
    return cutter


def summed(model, pieces, **settings):
    """The mean loss over the label tokens of all pieces."""
    counted = [num_label_tokens(piece["labels"]).sum() for piece in pieces]
    losses = [mean_loss(model, piece, **settings) * count for piece, count in zip(pieces, counted, strict=True)]
    return sum(losses) / sum(counted)


@pytest.mark.parametrize("name", GENERATING)
def test_logits_at_label_tokens_give_the_models_own_loss(name):
    model, batch = ZOO[name].build(), collate(examples(5, ZOO[name].kind), PAD)
    assert projects_labels(model) == (ZOO[name].kind == "causal")
    torch.testing.assert_close(mean_loss(model, batch), model(**batch).loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(mean_loss(model, batch, whole=True), model(**batch).loss, rtol=0, atol=0)


def test_the_projection_computes_label_tokens_alone():
    model, batch, seen = tiny_llama(), collate(examples(5), PAD), []
    model.lm_head.register_forward_hook(lambda _module, _args, output: seen.append(output.shape))
    mean_loss(model, batch).backward()
    assert seen == [(num_label_tokens(batch["labels"]).sum(), 50)]


def test_a_router_that_adds_a_loss_of_its_own_keeps_it():
    model = ZOO["mixtral"].build()
    batch = collate(examples(5), PAD)
    plain = mean_loss(model, batch)
    model.config.output_router_logits = True
    assert not projects_labels(model)
    assert mean_loss(model, batch) == model(**batch).loss > plain


@pytest.mark.parametrize("name", GENERATING)
def test_the_pieces_of_a_batch_have_its_loss(name):
    model, batch = ZOO[name].build(), collate(examples(12, ZOO[name].kind), PAD)
    pieces = in_small_pieces(model).pieces(batch)
    assert len(pieces) > 1
    assert sum(map(num_samples, pieces)) == 12
    assert any("position_ids" in piece for piece in pieces) == (name in PACKABLE)
    torch.testing.assert_close(summed(model, pieces), model(**batch).loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("pack", [True, False])
def test_the_gradients_of_the_pieces_sum_to_the_batchs(pack):
    model, batch = tiny_llama(), collate(examples(12), PAD)
    model(**batch).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    summed(model, in_small_pieces(model, pack=pack).pieces(batch)).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_classifiers_pieces_hold_its_rows_and_labels():
    model, batch = tiny_bert().eval(), collate(examples(9, "encoder"), PAD)
    pieces = in_small_pieces(model).pieces(batch)
    assert len(pieces) > 1
    torch.testing.assert_close(summed(model, pieces), model(**batch).loss, rtol=1e-6, atol=0)


def test_packing_is_understood_by_what_keeps_examples_apart():
    assert understands_packing(tiny_llama())
    assert not understands_packing(tiny_t5())
    assert not understands_packing(tiny_bert())
    assert not understands_packing(ZOO["mamba"].build())
    assert not understands_packing(ZOO["bloom"].build())  # it counts every token of a row as a distance


def test_another_example_in_the_row_changes_nothing():
    model = tiny_llama()
    one, other, third = examples(3)
    cutter = in_small_pieces(model)
    losses = []
    for second in (other, third):
        (piece,) = cutter.pieces(collate([one, second], PAD))
        assert len(piece["input_ids"]) == 1
        logits = model(input_ids=piece["input_ids"], position_ids=piece["position_ids"], use_cache=False).logits
        at = [i for i, p in enumerate(piece["position_ids"][0].tolist()) if p == 0]
        start = at[0] if piece["input_ids"][0, : len(one.input_ids)].tolist() == one.input_ids else at[1]
        losses.append(logits[0, start : start + len(one.input_ids)])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)


LENGTHS = [[19, 70, 20, 22, 25, 19, 33, 46, 26, 30], [7], [9, 9, 9, 9], [300, 5, 5, 280, 6], [100, 1]]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("a_pass", "most"), [(0.5, 64), (30, 512), (500, 100)])
def test_the_passes_of_sorted_rows_are_the_cheapest_there_are(lengths, a_pass, most):
    plan = sorted_rows(lengths, a_pass, most)
    assert sorted(i for rows in plan for row in rows for i in row) == list(range(len(lengths)))
    ordered, candidates = sorted(range(len(lengths)), key=lengths.__getitem__), []
    for ends in itertools.product([True, False], repeat=len(lengths) - 1):
        bounds = [0, *(i + 1 for i, end in enumerate(ends) if end), len(lengths)]
        passes = [ordered[start:stop] for start, stop in itertools.pairwise(bounds)]
        if all(len(p) == 1 or len(p) * lengths[p[-1]] <= most for p in passes):
            candidates.append(cost([[[i] for i in p] for p in passes], lengths, a_pass))
    assert cost(plan, lengths, a_pass) == pytest.approx(min(candidates))


@pytest.mark.parametrize("lengths", LENGTHS)
def test_packed_rows_hold_every_example_once_within_the_bound(lengths):
    for plan in packed_rows(lengths, 128):
        assert sorted(i for rows in plan for row in rows for i in row) == list(range(len(lengths)))
        for rows in plan:
            width = max(sum(lengths[i] for i in row) for row in rows)
            assert len(rows) == 1 or len(rows) * width <= 128


def test_a_real_sized_batch_has_hardly_any_padding():
    # Lengths of a draw of sixteen ARC questions with their answers, in the tokens of a vocabulary of 49,152.
    lengths = [19, 19, 20, 20, 22, 22, 25, 25, 26, 26, 27, 30, 33, 39, 46, 70]
    batch = collate([Example([5] * n, [IGNORED] * (n - 2) + [5, 5]) for n in lengths], PAD)
    model = tiny_llama(max_position_embeddings=128)
    cutter = Cutter(model)
    cutter.pass_tokens, cutter.most_tokens = 27.5, 512  # of a model with 3.5 million parameters a block
    pieces = cutter.pieces(batch)
    computed = sum(piece["input_ids"].numel() for piece in pieces)
    assert sum(lengths) <= computed <= 1.05 * sum(lengths)


def test_a_larger_block_makes_a_pass_cheaper():
    small, large = Cutter(tiny_llama()), Cutter(tiny_llama(intermediate_size=400))
    assert large.pass_tokens < small.pass_tokens
    assert Cutter(tiny_llama(), "bf16").pass_tokens > small.pass_tokens


def test_at_least_so_many_pieces_as_far_as_there_are_examples():
    model, batch = tiny_llama(), collate(examples(5), PAD)
    for fewest in (1, 2, 3, 5, 9):
        pieces = Cutter(model).pieces(batch, fewest)
        assert len(pieces) == min(fewest, 5)
        torch.testing.assert_close(summed(model, pieces), model(**batch).loss, rtol=1e-6, atol=0)
    assert [len(piece["input_ids"]) for piece in Cutter(model).pieces(batch, most_rows=2)] == [2, 2, 1]
