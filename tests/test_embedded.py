import itertools
import json
import random
import re
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np
import pytest

from bench.model import images
from bench.model.embedded import corpus, items, pretrain, pretrain_images, pretrain_t5
from bench.model.embedded.stories import MAX_QUANTITY, draw_story
from bench.model.embedded.world import CREATURES
from bench.process.hashes import values_sha256

TASKS = ("gsm_tiny", "commonsense_tiny", "summary_tiny", "acceptability_tiny", "paraphrase_tiny", "entailment_tiny")
IMAGES = {"digits": "4f5a4decbbc9ef1c", "glyphs_tiny": "6760b29b6857488a"}  # of their rows
CHECKPOINT = Path(items.__file__).parent / "tiny_llama"
VISION = CHECKPOINT.parent / "tiny_vit"
TINY_T5 = CHECKPOINT.with_name("tiny_t5")


def asked(item):
    return tuple(
        str(value) for key, value in item.items() if key not in ("label", "answer", "choices", "fact", "summary")
    )


@pytest.mark.parametrize("name", [*TASKS, *IMAGES])
def test_splits_are_disjoint_and_no_item_occurs_twice(name):
    splits = items.splits(name)
    everything = [asked(item) for rows in splits.values() for item in rows]
    assert set(splits) == {"train", "validation", "test"}
    assert len(everything) == len(set(everything))


@pytest.mark.parametrize(("name", "digest"), IMAGES.items())
def test_images_are_the_same_on_every_machine(name, digest):
    assert values_sha256(items.splits(name)).startswith(digest)


def test_a_fact_is_asked_in_two_wordings_and_in_one_split_only():
    creatures = {c.name: c for c in CREATURES}
    asked_in = {}
    for split, rows in items.splits("commonsense_tiny").items():
        assert len(rows) == 2 * items.FACTS[split]
        for row in rows:
            (name,) = [word.strip("?") for word in row["question"].split() if word.strip("?") in creatures]
            # A creature's kind, home, food and colour have no value in common, so that a pair names one fact.
            asked_in.setdefault((name, row["choices"][row["label"]]), []).append((split, row["fact"]))
    assert len(asked_in) == 4 * len(creatures)
    assert all(len(found) == 2 and len(set(found)) == 1 for found in asked_in.values())
    assert len({found[0] for found in asked_in.values()}) == len(asked_in)


def test_the_gold_choice_is_the_creatures_property():
    creature = {c.name: c for c in CREATURES}
    for item in items.splits("commonsense_tiny")["test"]:
        (name,) = [word.strip("?") for word in item["question"].split() if word.strip("?") in creature]
        properties = vars(creature[name]).values()
        assert item["choices"][item["label"]] in properties
        assert sum(choice in properties for choice in item["choices"]) == 1


def test_every_answer_follows_from_its_steps():
    for item in items.splits("gsm_tiny")["test"]:
        *steps, last = item["answer"].split("\n")
        for step in steps:
            left, right = step.split(" = ")
            assert eval(left) == int(right)
        assert last == f"#### {right}"


def test_a_problem_has_two_to_four_equations():
    lengths = {item["answer"].count(" = ") for rows in items.splits("gsm_tiny").values() for item in rows}
    assert lengths == {2, 3, 4}


def number_at_the_end(story):
    """What a story tells, read sentence by sentence: the number at its start and at its end."""
    opening, *events = story.rstrip(".").split(". ")
    start = now = prod(int(word) for word in opening.split() if word.isdigit())
    for event in events:
        (number,) = [int(word) for word in event.split() if word.isdigit()] or [0]
        if "buys" in event or "finds" in event:
            now += number
        elif "loses" in event or "sells" in event:
            now -= number
        elif "half" in event:
            now /= 2
        else:
            now *= 2 if "twice" in event else 3
    return start, now


def test_entailment_is_whether_there_are_more_or_fewer_than_before():
    for item in items.splits("entailment_tiny")["test"]:
        start, end = number_at_the_end(item["sentence1"])
        assert item["label"] == (("more" if end > start else "fewer") in item["sentence2"])
        assert end != start


def test_a_paraphrase_has_the_same_giver_and_taker():
    for item in items.splits("paraphrase_tiny")["test"]:
        gifts = []
        for sentence in (item["sentence1"], item["sentence2"]):
            subject, verb, *gift, _, other = sentence.rstrip(".").split()
            gifts.append((subject, other, gift) if verb == "gives" else (other, subject, gift))
        assert item["label"] == (gifts[0] == gifts[1])


OUTCOME = re.compile(r"(\w+) ends with (\d+) (\w+), and (\w+) gets (\d+ \w+) from (\w+)\.")


def test_an_outcome_names_the_persons_quantity_at_the_end_and_repeats_the_gift():
    for item in items.splits("summary_tiny")["test"]:
        person, quantity, thing, taker, gift, giver = OUTCOME.fullmatch(item["summary"]).groups()
        assert f"{giver} gives {gift} to {taker}." in item["document"]
        assert len({person, taker, giver}) == 3
        sentences = item["document"].removesuffix(".").split(". ")
        (first,) = [place for place, sentence in enumerate(sentences) if sentence.startswith(f"{person} has")]
        follow = itertools.takewhile(lambda s: s.startswith(("She ", "He ", "Then ")), sentences[first + 1 :])
        _, end = number_at_the_end(". ".join([sentences[first], *follow]))
        assert end == int(quantity)
        assert thing.removesuffix("s").removesuffix("e") in sentences[first]


def test_quantities_stay_between_1_and_99():
    rng = random.Random(0)
    stories = [draw_story(rng, 1, 3) for _ in range(500)]
    assert all(1 <= event.quantity <= MAX_QUANTITY for story in stories for event in story.events)


@pytest.mark.parametrize("name", TASKS[3:])
def test_labels_are_about_balanced(name):
    rows = items.splits(name)["test"]
    assert 0.4 < sum(row["label"] for row in rows) / len(rows) < 0.6


def test_pretraining_never_sees_a_task_format():
    text = "\n".join(islice(corpus.documents(random.Random(0)), 3000))
    assert not [marker for marker in corpus.TASK_MARKERS if marker in text]


def test_equal_seeds_draw_equal_text_and_different_seeds_do_not():
    def drawn(seed):
        return list(islice(corpus.documents(random.Random(seed)), 50))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_unknown_data_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="choose from"):
        items.splits("nosuch")


@pytest.mark.parametrize(
    ("folder", "made_by"),
    [(CHECKPOINT, pretrain.Recipe), (VISION, pretrain_images.Recipe), (TINY_T5, pretrain_t5.Recipe)],
)
def test_the_shipped_checkpoint_is_small_and_is_what_its_recipe_says(folder, made_by):
    import hashlib

    recipe = json.loads((folder / "recipe.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    assert len(weights) <= 4e6
    assert hashlib.sha256(weights).hexdigest() == recipe["sha256"]
    assert made_by(**recipe["recipe"]) == made_by()


def test_the_shipped_checkpoint_has_the_loss_its_recipe_says():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = json.loads((CHECKPOINT / "recipe.json").read_text())
    model, tokenizer = AutoModelForCausalLM.from_pretrained(CHECKPOINT), AutoTokenizer.from_pretrained(CHECKPOINT)
    loss = pretrain.eval_loss(model.eval(), pretrain.Recipe(), tokenizer)
    assert loss == pytest.approx(recipe["eval_loss"], abs=1e-4)


def test_the_shipped_vision_model_tells_drawn_images_apart_as_its_recipe_says():
    from transformers import AutoModelForImageClassification

    recipe = json.loads((VISION / "recipe.json").read_text())
    model = AutoModelForImageClassification.from_pretrained(VISION)
    loss, accuracy = pretrain_images.evaluate(model.eval(), pretrain_images.Recipe())
    assert (loss, accuracy) == pytest.approx((recipe["eval_loss"], recipe["accuracy"]), abs=1e-3)


def test_what_pretraining_is_given_is_what_the_image_processor_makes():
    from transformers import AutoImageProcessor

    recipe = pretrain_images.Recipe(batch_size=1)
    image = pretrain_images.draw(np.random.RandomState([recipe.seed, 3]))[0]
    pixels, _ = next(pretrain_images.batches(recipe, 3))
    processor = AutoImageProcessor.from_pretrained(VISION, backend="pil")
    found = images.pixel_values(processor, [images.drawn(image)])
    np.testing.assert_allclose(pixels.numpy(), found.numpy(), atol=1e-5)


def test_the_recipe_of_images_is_repeatable(tmp_path):
    recipe = pretrain_images.Recipe(steps=3, warmup_steps=1, batch_size=4)
    assert pretrain_images.pretrain(recipe, tmp_path / "a") == pretrain_images.pretrain(recipe, tmp_path / "b")


def test_the_shipped_encoder_decoder_has_the_loss_its_recipe_says():
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    recipe = json.loads((TINY_T5 / "recipe.json").read_text())
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(TINY_T5), AutoTokenizer.from_pretrained(TINY_T5)
    loss = pretrain_t5.eval_loss(model.eval(), pretrain_t5.Recipe(), tokenizer)
    assert loss == pytest.approx(recipe["eval_loss"], abs=1e-4)


def test_a_mask_stands_for_each_span_and_what_is_seen_keeps_its_order():
    rng, recipe = random.Random(0), pretrain_t5.Recipe()
    for length in (3, 4, 10, 60):
        seen = pretrain_t5.masked(range(length), -1, recipe, rng)
        kept = [token for token in seen if token >= 0]
        assert kept == sorted(set(kept))
        assert kept[0] == 0
        assert seen[-1] == -1
        assert length - len(kept) == max(1, round(0.3 * length))
        assert all(b >= 0 for a, b in itertools.pairwise(seen) if a == -1)
    assert pretrain_t5.masked(range(60), -1, recipe, rng).count(-1) == round(0.3 * 60 / 3)


def test_the_encoder_decoder_is_to_write_what_it_is_shown_masked():
    tokenizer, recipe = pretrain_t5.t5_tokenizer(), pretrain_t5.Recipe(batch_size=4)
    batch = next(pretrain_t5.batches(recipe, tokenizer, "train"))
    for ids, mask, labels in zip(*(batch[name] for name in ("input_ids", "attention_mask", "labels")), strict=True):
        seen, asked = ids[mask == 1].tolist(), labels[labels >= 0].tolist()
        assert seen[-1] == asked[-1] == tokenizer.eos_token_id
        left = iter(asked)
        assert all(token in left for token in seen if token != tokenizer.mask_token_id)
        assert tokenizer.mask_token_id in seen


def test_the_encoder_decoders_recipe_is_repeatable(tmp_path):
    recipe = pretrain_t5.Recipe(steps=3, warmup_steps=1, batch_size=4, sorted_batches=2)
    assert pretrain_t5.pretrain(recipe, tmp_path / "a") == pretrain_t5.pretrain(recipe, tmp_path / "b")


def test_no_adapted_projection_of_the_encoder_decoder_is_square():
    from torch import nn
    from transformers import T5ForConditionalGeneration

    model = T5ForConditionalGeneration(pretrain_t5.t5_config(pretrain_t5.Recipe(), 513))
    shapes = [module.weight.shape for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(shapes) == 2 * (6 + 10) + 1
    assert all(rows != columns for rows, columns in shapes)


def test_no_adapted_projection_is_square():
    from torch import nn
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(pretrain.llama_config(pretrain.Recipe()))
    shapes = [module.weight.shape for module in model.model.modules() if isinstance(module, nn.Linear)]
    assert len(shapes) == 28
    assert all(rows != columns for rows, columns in shapes)


@pytest.mark.parametrize("text", ["Zürich: 3 × 4 = 12?", "日本語 🙂", "\t#### -1,234.5"])
def test_any_text_goes_through_the_tokenizer_and_back(text):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_recipe_lowers_the_loss_and_is_repeatable(tmp_path):
    recipe = pretrain.Recipe(steps=20, warmup_steps=2, batch_size=4, tokenizer_documents=300, bpe_dropout_share=0.0)
    loss = pretrain.pretrain(recipe, tmp_path / "a")
    assert loss < 5.5  # a uniform guess over 512 tokens costs 6.2 nats
    assert pretrain.pretrain(recipe, tmp_path / "b") == loss


def test_a_checkpoint_in_bf16_has_half_the_bytes_and_the_loss_of_what_was_stored(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = pretrain.Recipe(steps=3, warmup_steps=1, batch_size=4, tokenizer_documents=300, precision="bf16")
    loss = pretrain.pretrain(recipe, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
    assert (tmp_path / "model.safetensors").stat().st_size < 2.1 * model.num_parameters()
    assert pretrain.eval_loss(model.eval(), recipe, AutoTokenizer.from_pretrained(tmp_path)) == pytest.approx(loss)
