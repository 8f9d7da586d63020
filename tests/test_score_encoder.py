import random

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from bench.model.load import UNKNOWN, LoadedModel
from bench.score import score
from bench.tasks.definition import load_definition
from bench.tasks.examples import Classification
from models import PLAIN_WORDS, scoring, tiny_bert, tiny_roberta, whole, word_tokenizer

ALL = {"limit": None, "merged_samples": 0}
COLA = ("glue/cola/default.yaml", Classification(("sentence",), 2))
MRPC = ("glue/mrpc/default.yaml", Classification(("sentence1", "sentence2"), 2))
MNLI = ("glue/mnli/default.yaml", Classification(("premise", "hypothesis"), 3))
STSB = ("stsb.yaml", Classification(("sentence1", "sentence2"), 1))


def rows(classification, number=40, words=(2, 12)):
    """Random sentences of different lengths; classes are about equally frequent."""
    draw = random.Random(0)

    def text():
        return " ".join(draw.choices(PLAIN_WORDS, k=draw.randint(*words)))

    labels = classification.num_labels
    return [
        {field: text() for field in classification.texts}
        | {"label": draw.uniform(0, 5) if labels == 1 else draw.randrange(labels)}
        for _ in range(number)
    ]


def evaluation(form, data=None, name="mine"):
    definition, classification = form
    data = rows(classification) if data is None else data
    return load_definition(name, definition, {"test": data}, "test", classification=classification)


def scored(model, form, tokenizer=None, **settings):
    return score(whole(model, "encoder", tokenizer), {"mine": evaluation(form)}, scoring(**ALL | settings))


def logits(model, form, tokenizer=None):
    """Row by row and without padding: what the head says."""
    tokenizer, found = tokenizer or word_tokenizer(), []
    model.eval()
    for row in rows(form[1]):
        with torch.no_grad():
            found.append(model(**tokenizer(*[row[field] for field in form[1].texts], return_tensors="pt")).logits[0])
    return torch.stack(found).numpy()


def balanced(model, form, tokenizer=None):
    """The same head, its bias moved so that no class is preferred over all rows."""
    mean = logits(model, form, tokenizer).mean(axis=0)
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias -= torch.tensor(mean)
    return model


def labels(form):
    return [row["label"] for row in rows(form[1])]


def values(found):
    return {one.metric: one.value for one in found.scores}


@pytest.mark.parametrize(
    ("model", "tokenizer"), [(tiny_bert, word_tokenizer()), (tiny_roberta, word_tokenizer("roberta"))]
)
def test_matthews_correlation_is_that_of_the_heads_classes(model, tokenizer):
    model = balanced(model(), COLA, tokenizer)
    predicted = logits(model, COLA, tokenizer).argmax(axis=1)
    assert len(set(predicted)) == 2
    found = scored(model, COLA, tokenizer)
    assert values(found) == {"mcc": pytest.approx(matthews_corrcoef(labels(COLA), predicted))}
    assert [outcome.choice for outcome in found.outcomes] == predicted.tolist()


def test_accuracy_and_f1_of_a_pair_are_those_of_the_heads_classes():
    model = balanced(tiny_bert(), MRPC)
    predicted = logits(model, MRPC).argmax(axis=1)
    assert len(set(predicted)) == 2
    assert values(scored(model, MRPC)) == {
        "acc": pytest.approx(np.mean(predicted == labels(MRPC))),
        "f1": pytest.approx(f1_score(labels(MRPC), predicted)),
    }


def test_three_classes_are_scored_in_the_order_of_their_numbers():
    model = balanced(tiny_bert(3), MNLI)
    predicted = logits(model, MNLI).argmax(axis=1)
    assert len(set(predicted)) == 3
    assert values(scored(model, MNLI))["acc"] == pytest.approx(np.mean(predicted == labels(MNLI)))


def test_a_regression_is_scored_by_both_correlations_with_its_output():
    output = logits(tiny_bert(1), STSB)[:, 0]
    found = scored(tiny_bert(1), STSB)
    assert values(found)["pearson"] == pytest.approx(pearsonr(labels(STSB), output).statistic, abs=1e-5)
    assert values(found)["spearman"] == pytest.approx(spearmanr(labels(STSB), output).statistic, abs=1e-5)
    assert {one.majority for one in found.scores} == {None}


def test_likelihoods_are_normalised_over_the_classes():
    (response, *_) = (outcome.response for outcome in scored(tiny_bert(3), MNLI, limit=1).outcomes)
    assert sum(np.exp(likelihood) for likelihood, _ in eval(response)) == pytest.approx(1)


def test_the_batch_size_moves_no_answer():
    one, many = (scored(tiny_bert(1), STSB, batch_size=size) for size in (1, 16))
    expected = [float(outcome.response) for outcome in many.outcomes]
    assert [float(outcome.response) for outcome in one.outcomes] == pytest.approx(expected, abs=1e-5)


def test_each_row_is_read_once_however_many_choices_it_has(monkeypatch):
    model, read = tiny_bert(3), []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: read.append(len(given["input_ids"])) or forward(**given))
    scored(model, MNLI, batch_size=16)
    assert read == [16, 16, 8]


def test_dropout_is_off_and_the_mode_and_random_streams_are_left_alone():
    model = tiny_bert(1).train()
    before = random.getstate(), torch.get_rng_state()
    first, second = (scored(model, STSB).outcomes for _ in range(2))
    assert [o.response for o in first] == [o.response for o in second]
    assert model.training
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_rows_longer_than_the_model_are_cut_counted_and_named():
    short, long = {"sentence": "a cat", "label": 0}, {"sentence": "a cat " * 40, "label": 1}
    task = evaluation(COLA, [short, long, long])
    with pytest.warns(UserWarning, match="2 of 3 scored items of mine are longer than the 64 tokens"):
        found = score(whole(tiny_roberta(), "encoder", word_tokenizer("roberta")), {"mine": task}, scoring(**ALL))
    assert found.facts.truncated == {"mine": 2}


def test_several_tasks_are_scored_apart():
    model, settings = balanced(tiny_bert(), MRPC), scoring(**ALL)
    alone = {form: values(scored(model, form)) for form in (COLA, MRPC)}
    both = {"one": evaluation(COLA, name="one"), "two": evaluation(MRPC, name="two")}
    found = score(whole(model, "encoder"), both, settings).scores
    assert {one.metric: one.value for one in found if one.task == "one"} == alone[COLA]
    assert {one.metric: one.value for one in found if one.task == "two"} == alone[MRPC]


def refused(form, message):
    with pytest.raises(ValueError, match=message):
        scored(tiny_bert(), form)


def test_a_task_without_a_classification_is_refused():
    task = load_definition("mine", COLA[0], {"test": rows(COLA[1])}, "test")
    with pytest.raises(ValueError, match="task mine has no classification form; a classifier cannot be scored on it"):
        score(whole(tiny_bert(), "encoder"), {"mine": task}, scoring(**ALL))


def test_a_definition_that_does_not_fit_the_number_of_labels_is_refused():
    refused((MNLI[0], Classification(("premise", "hypothesis"), 2)), "has 2 labels, but the choices")
    refused((COLA[0], Classification(("sentence",), 1)), "output_type=generate_until, not multiple_choice")
    refused((STSB[0], Classification(("sentence1", "sentence2"), 2)), "output_type=multiple_choice, not generate_until")


def test_an_encoder_gives_no_likelihood_of_a_text():
    from bench.score.encoder import EncoderLM

    lm = EncoderLM(LoadedModel(tiny_bert(), word_tokenizer(), UNKNOWN, "encoder"), {}, 1, 64)
    with pytest.raises(ValueError, match="gives no likelihood of a text"):
        lm.loglikelihood_rolling([])
