"""Instruction data sets: which rows can be learnt and scored, and how well a model predicts their responses.

lm-eval's own perplexity of an output of type loglikelihood is one over items, whose likelihoods are sums over whole
texts; these are per word and per byte, as lm-eval's wikitext has them, and do not depend on the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import datasets

Likelihood = tuple[float, bool]  # nats of a whole response, and whether greedy decoding would write it


def filled(field: str, rows: datasets.Dataset) -> datasets.Dataset:
    """The rows but those whose field is empty."""
    return rows.filter(lambda row: row[field].strip() != "")


def perplexities(field: str, doc: dict[str, Any], results: Sequence[Likelihood]) -> dict[str, tuple[float, int]]:
    """A row's metrics: the likelihood of the field's text, and its number of words or bytes."""
    text, likelihood = doc[field], results[0][0]
    num_words, num_bytes = len(re.split(r"\s+", text.strip())), len(text.encode())
    return {
        "word_perplexity": (likelihood, num_words),
        "byte_perplexity": (likelihood, num_bytes),
        "bits_per_byte": (likelihood, num_bytes),
    }


# What the definitions name: of Alpaca's rows the output, of CodeFeedback's the answer.
with_output, of_output = partial(filled, "output"), partial(perplexities, "output")
with_answer, of_answer = partial(filled, "answer"), partial(perplexities, "answer")
