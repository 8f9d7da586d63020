"""Log-likelihoods of ARC-Easy's choices by SmolLM2-135M: the suite's scoring against lm-eval's HFLM."""

from __future__ import annotations

import scoring_contenders
import smollm2
from process import Options, fresh, interleaved, on_threads
from products import floor
from table import Goal, Report, Row

TIME, MEMORY = Goal(0.42), Goal(0.30)


def run(options: Options) -> Report | None:
    """Both sides in turns."""
    if smollm2.skipped("choice_scoring"):
        return None
    num_items, repetitions = 200 if options.full else 32, options.repetitions or (3 if options.full else 2)
    overrides, size = (*smollm2.overrides(options), "task=commonsense/arc_easy"), scoring_contenders.BATCH_SIZE
    rows, same = [], {}
    for named in on_threads(options):
        found = interleaved(scoring_contenders.contenders(overrides, num_items, generates=False), repetitions)
        mine, peer = ([one.cost for one in found[side]] for side in ("ours", "HFLM"))
        pairs = found["HFLM"][0].pairs
        batches = [pairs[start : start + size] for start in range(0, num_items, size)]
        tokens = [sum(context + choices for context, choices in batch) for batch in batches]
        scored = [sum(choices for _, choices in batch) for batch in batches]
        least = fresh(floor, config=smollm2.config(), tokens=tokens, label_tokens=scored, training=False)
        what, times = f"choices of {num_items} items{named}", ([one.seconds for one in side] for side in (mine, peer))
        rows.append(Row(what, "s", *times, "HFLM", TIME, least.seconds))
        if not named:
            peaks = ([one.extra_bytes / 1e9 for one in side] for side in (mine, peer))
            rows.append(Row(f"{what}: memory over the weights", "GB", *peaks, "HFLM", MEMORY))
        same[f"same answers{named}"] = scoring_contenders.same_answers(found)
    return Report(rows, {"items": num_items, "batch_size": size}, repetitions, details=same)
