"""64 answers of uneven length to GSM8K's questions by SmolLM2-135M: the suite's scoring against lm-eval's HFLM."""

from __future__ import annotations

from collections.abc import Iterable

import scoring_contenders
import smollm2
from process import Options, fresh, interleaved, on_threads
from products import floor
from table import Goal, Report, Row, median

NUM_ITEMS, GOAL = 64, Goal(0.75)


def run(options: Options) -> Report | None:
    """Both sides in turns."""
    if smollm2.skipped("generation"):
        return None
    repetitions = options.repetitions or (3 if options.full else 1)
    overrides, size = (*smollm2.overrides(options), "task=gsm8k"), scoring_contenders.BATCH_SIZE
    rows, details = [], {}
    for named in on_threads(options):
        found = interleaved(scoring_contenders.contenders(overrides, NUM_ITEMS, generates=True), repetitions)
        pairs = found["HFLM"][0].pairs
        lengths = [answer for _, answer in pairs]
        tokens, scored = _passes(sum(prompt for prompt, _ in pairs), lengths)
        least = fresh(floor, config=smollm2.config(), tokens=tokens, label_tokens=scored, training=False)
        times = ([one.cost.seconds for one in found[side]] for side in ("ours", "HFLM"))
        rows.append(Row(f"{NUM_ITEMS} answers{named}", "s", *times, "HFLM", GOAL, least.seconds))
        details[f"same answers{named}"] = scoring_contenders.same_answers(found)
        details["tokens of an answer"] = {"least": min(lengths), "median": median(lengths), "most": max(lengths)}
    return Report(rows, {"items": NUM_ITEMS, "batch_size": size}, repetitions, details=details)


def _passes(num_prompt: int, lengths: Iterable[int]) -> tuple[list[int], list[int]]:
    """Tokens, and those whose logits count, of one pass over all prompts and one for each further token of answers."""
    lengths = [max(1, length) for length in lengths]
    alive = [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    return [num_prompt, *alive], [len(lengths), *alive]
