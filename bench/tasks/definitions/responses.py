"""Which rows of an instruction data set can be learnt and scored: a perplexity needs a response."""

from __future__ import annotations

import datasets


def with_output(rows: datasets.Dataset) -> datasets.Dataset:
    """Alpaca's rows but the few whose output is empty."""
    return rows.filter(lambda row: row["output"].strip() != "")


def with_answer(rows: datasets.Dataset) -> datasets.Dataset:
    """CodeFeedback's rows but those whose answer is empty."""
    return rows.filter(lambda row: row["answer"].strip() != "")
