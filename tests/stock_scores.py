"""Whether the suite's scores are those of lm-eval's stock HFLM, item by item.

    python tests/stock_scores.py results/*    a cell for each task and model of each of these studies; --all: every cell
    python tests/stock_scores.py method=hu task=gsm_tiny train.learning_rate=1e-2

Trains each cell again, because committed records hold no weights, and scores the model in both ways.
"""

import argparse
import ast
import math
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

from conftest import composed_run

import bench.score
from bench.process.environment import quiet_environment
from bench.run import run
from bench.runs.attempt import Attempt
from bench.runs.folder import RunFolder
from bench.runs.record import COMPLETED, read_record
from bench.runs.renamed import modern
from bench.score.rows import outcomes
from bench.score.stage import evaluate
from bench.study.folders import CONF
from bench.sweep import choices

# Relative, of log-likelihoods in float32: rounding in another order of sums.
TOLERANCE = 1e-4


@contextmanager
def stock():
    """Within it causal models are scored by HFLM, given the suite's tokens: every request a row of its own."""
    from bench.score.language import CausalLM

    with mock.patch("bench.score.shared_context.SharedContextLM", lambda batch_tokens, **given: CausalLM(**given)):
        yield


def differences(ours, expected, generates=()):
    """What differs between outcomes of the same items, in words; likelihoods up to TOLERANCE, and texts of the tasks in
    `generates` not at all."""
    assert len(ours) == len(expected) > 0
    for one, other in zip(ours, expected, strict=True):
        where = f"{one.task} {one.filter} {one.doc_id}"
        assert (one.doc_hash, one.filter) == (other.doc_hash, other.filter)
        if one.choice != other.choice:
            yield f"{where}: choice {one.choice} for {other.choice}"
        if not equal(one.metrics, other.metrics):
            yield f"{where}: {one.metrics} for {other.metrics}"
        if one.response != other.response and (one.task in generates or not equal(parsed(one), parsed(other))):
            yield f"{where}: {one.response!r} for {other.response!r}"


def parsed(outcome):
    return ast.literal_eval(outcome.response)


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def compared(cfg, counts):
    """Does a run, scoring in both ways; adds to counts of items, what is differing, and seconds."""

    def both(loaded, evaluations, settings):
        times = [time.perf_counter()]
        found = bench.score.stage.score(loaded, evaluations, settings)
        times.append(time.perf_counter())
        with stock():
            results, _ = evaluate(loaded, evaluations, settings, settings.limit, settings.batch_size, 0)
        times.append(time.perf_counter())
        generates = {name for name, task in evaluations.items() if task.OUTPUT_TYPE == "generate_until"}
        differing = list(differences(found.outcomes, outcomes(results, evaluations), generates))
        counts.update(items=len(found.outcomes), differing=len(differing))
        print(
            f"{cfg.run_id}: {len(found.outcomes)} outcomes, {len(differing)} differing; shared contexts "
            f"{found.facts.shared_context}; {times[1] - times[0]:.1f} s for {times[2] - times[1]:.1f} s",
            *differing[:5],
            sep="\n  ",
            flush=True,
        )
        return found

    with mock.patch.object(bench.score, "score", both), tempfile.TemporaryDirectory() as folder:
        cfg = replace(cfg, results_dir=Path(folder), score=replace(cfg.score, merged_samples=0))
        run(cfg, Attempt(RunFolder.of(cfg), scratch=Path(folder)))


def cells(studies, every):
    """The runs of causal models in studies; unless every one is wanted, one for each pair of task and model."""
    found = {}
    for path in sorted(path for study in studies for path in study.rglob("record.json*")):
        record, study = read_record(path.parent), path.parents[1]
        if record.status == COMPLETED and record.model.kind == "causal":
            found.setdefault(path if every else (study, record.config.task.name, record.config.model.name), record)
    return [recorded_cell(record.config) for record in found.values()]


def recorded_cell(config):
    """What a record describes, in this version's configuration: a record may be older than the files in conf/."""
    tasks = {choice.rpartition("/")[2]: choice for choice in choices.choices(CONF / "task")}
    chosen = [f"method={config.method.name}", f"task={tasks[config.task.name]}", f"model={config.model.name}"]
    chosen += [f"seed={config.seed}", f"rank.name={config.rank.name}", f"rank.r={config.rank.r}"]
    chosen += [f"rank.lora_alpha={config.rank.lora_alpha}", "track=none", "measure=none"]
    train, _ = modern({"train": config.train.model_dump()})
    chosen += [f"train.{key}={value}" for key, value in train["train"].items() if value is not None]
    score = {key: config.score[key] for key in ("split", "limit", "batch_size") if config.score.get(key) is not None}
    score, _ = modern({"score": score})
    return composed_run(*chosen, *(f"score.{key}={value}" for key, value in score["score"].items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", metavar="STUDY_FOLDER|OVERRIDE")
    parser.add_argument("--all", action="store_true", help="every cell of the studies")
    options = parser.parse_args()
    quiet_environment()
    folders = [Path(each) for each in options.what if "=" not in each and Path(each).is_dir()]
    overrides = [each for each in options.what if "=" in each]
    chosen = cells(folders, options.all)
    if overrides:
        chosen.append(composed_run(*overrides))
    counts = Counter()
    for cfg in chosen:
        compared(cfg, counts)
    print(f"{len(chosen)} cells: {counts['items']} outcomes, {counts['differing']} differing")
    return counts["differing"] > 0


if __name__ == "__main__":
    sys.exit(main())
