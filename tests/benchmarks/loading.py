"""Reading and encoding SST-2's 67,349 training rows with SmolLM2's tokenizer: this tree against that of 72d1a51."""

from __future__ import annotations

import tempfile

import smollm2
import trees
from process import ROOT, Options, interleaved
from table import Goal, Report, Row

FIRST, SECOND = Goal(0.10), Goal(0.02)


def run(options: Options) -> Report | None:
    """A first process with an empty cache and a second one; the earlier tree's processes are all alike."""
    if smollm2.skipped("loading") or trees.skipped("loading"):
        return None
    repetitions = options.repetitions or (3 if options.full else 1)
    overrides = (*smollm2.overrides(options), "task=glue/sst2", "method=hu", "train.learning_rate=2e-4")

    def both() -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as cache:
            asked = [trees.ask(ROOT, "rows", *overrides, f"cache.dir={cache}") for _ in range(2)]
        return asked[0]["seconds"], asked[1]["seconds"]

    def once() -> tuple[float, float]:
        return (trees.ask(trees.earlier(), "rows", *overrides)["seconds"],) * 2

    found = interleaved({"ours": both, trees.COMMIT: once}, repetitions)
    (first, second), (peer, _) = (zip(*side, strict=True) for side in found.values())
    rows = [
        Row("SST-2's rows, first process", "s", first, peer, trees.COMMIT, FIRST),
        Row("SST-2's rows, second process", "s", second, peer, trees.COMMIT, SECOND),
    ]
    return Report(rows, {"rows": smollm2.ROWS["glue_sst2"]}, repetitions)
