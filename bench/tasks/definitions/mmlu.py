"""MMLU: each question behind the five solved examples of its subject, which are the rows of the split dev.

The split is dev+test, so the first five rows of a subject are its examples; they are not scored.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import datasets

NUM_EXAMPLES = 5


def after_examples(rows: datasets.Dataset) -> datasets.Dataset:
    """The questions to be scored, with their subject's examples as text.

    Raises:
        ValueError: there is none: no subject has more rows than examples.
    """
    examples: dict[str, list[str]] = defaultdict(list)
    scored = []
    for row in rows:
        of_subject = examples[row["subject"]]
        if len(of_subject) < NUM_EXAMPLES:
            of_subject.append(_solved(row))
        else:
            scored.append(row | {"examples": "".join(of_subject)})
    if not scored:
        raise ValueError(
            f"mmlu has no question after the first {NUM_EXAMPLES} rows of each of {len(examples)} subjects, which are "
            "examples; dev+test.jsonl is dev.jsonl followed by test.jsonl"
        )
    return datasets.Dataset.from_list(scored)


def _solved(row: dict[str, Any]) -> str:
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", row["choices"], strict=True))
    return f"{row['question'].strip()}\n{choices}\nAnswer: {'ABCD'[row['answer']]}\n\n"
