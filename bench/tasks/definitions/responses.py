"""Instruction data sets: which rows can be learnt and scored, and how well a model predicts their responses.

lm-eval's own perplexity of an output of type loglikelihood is one over items, whose likelihoods are sums over whole
texts; these are per word and per byte, as lm-eval's wikitext has them, and do not depend on the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import datasets

Likelihood = tuple[float, bool]  # nats of a whole response, and whether greedy decoding would write it


def with_output(rows: datasets.Dataset) -> datasets.Dataset:
    """Alpaca's rows but the few whose output is empty."""
    return rows.filter(lambda row: row["output"].strip() != "")


def with_answer(rows: datasets.Dataset) -> datasets.Dataset:
    """CodeFeedback's rows but those whose answer is empty."""
    return rows.filter(lambda row: row["answer"].strip() != "")


def of_output(doc: dict[str, Any], results: Sequence[Likelihood]) -> dict[str, tuple[float, int]]:
    """An Alpaca row's metrics."""
    return _perplexities(doc["output"], results[0][0])


def of_answer(doc: dict[str, Any], results: Sequence[Likelihood]) -> dict[str, tuple[float, int]]:
    """A CodeFeedback row's metrics."""
    return _perplexities(doc["answer"], results[0][0])


def _perplexities(text: str, likelihood: float) -> dict[str, tuple[float, int]]:
    num_words, num_bytes = len(re.split(r"\s+", text.strip())), len(text.encode())
    return {
        "word_perplexity": (likelihood, num_words),
        "byte_perplexity": (likelihood, num_bytes),
        "bits_per_byte": (likelihood, num_bytes),
    }
