"""ROUGE (Lin 2004, https://aclanthology.org/W04-1013) of generated summaries, by rouge-score with Porter's stemmer.

A row's document and summary are under the names of their fields in each data set. ROUGE-L reads both texts as one
sequence; ROUGE-Lsum takes the union of the longest common subsequences over sentences, which papers on CNN/DailyMail
print as R-L. Line breaks part sentences, and within a line nltk's Punkt without trained parameters, which needs no
download and knows no abbreviations.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from functools import partial
from typing import Any

import datasets

METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")

try:
    from nltk.tokenize.punkt import PunktSentenceTokenizer
    from rouge_score.rouge_scorer import RougeScorer
except ImportError as error:
    raise ImportError(f"ROUGE needs {error.name}, which is not installed; pip install rouge-score nltk") from error


def filled(document: str, summary: str, rows: datasets.Dataset) -> datasets.Dataset:
    """The rows that have both a document and a summary."""
    return rows.filter(lambda row: row[document].strip() != "" and row[summary].strip() != "")


def f_measures(summary: str, doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The F measure of each of METRICS, in 0..1, of a generated summary; 0 where it has no word."""
    found = _scorer().score(sentences(doc[summary]), sentences(results[0]))
    return {name: float(found[name].fmeasure) for name in METRICS}


def sentences(text: str) -> str:
    """The text with each of its sentences in a line of its own."""
    return "\n".join(sentence for line in text.splitlines() for sentence in PunktSentenceTokenizer().tokenize(line))


@functools.cache
def _scorer() -> RougeScorer:
    return RougeScorer(list(METRICS), use_stemmer=True)


# What the definitions name: fields of XSum and of summary_tiny, and of CNN/DailyMail.
with_summary, of_summary = partial(filled, "document", "summary"), partial(f_measures, "summary")
with_highlights, of_highlights = partial(filled, "article", "highlights"), partial(f_measures, "highlights")
