"""Scoring of MATH: lm-eval's metric, and the same comparison with the answer that a worked solution ends in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.tasks.hendrycks_math import utils

MARKER = "The answer is:"  # what MetaMathQA's responses end with


def process_results(doc: dict[str, Any], results: Sequence[str]) -> dict[str, int]:
    """1 or 0 for each metric."""
    right = utils.is_equiv(final_answer(results[0]), boxed(doc["solution"]))
    return utils.process_results(doc, list(results)) | {"exact_match_boxed": int(right)}


def final_answer(text: str) -> str | None:
    r"""What the last \boxed holds, else the rest of the line after the last "The answer is:", else None."""
    found = boxed(text)
    if found is not None or MARKER not in text:
        return found
    line = text.rpartition(MARKER)[2].strip().partition("\n")[0]
    return line.strip().removesuffix(".").strip("$")


def boxed(text: str) -> str | None:
    r"""What the last \boxed holds; None where there is none, or it is not closed."""
    found = utils.last_boxed_only_string(text)
    if found is None or not found.startswith((r"\boxed{", r"\boxed ")):
        return None
    return utils.remove_boxed(found)
