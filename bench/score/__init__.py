"""Scoring through lm-eval, in process: a score with its standard error per task, metric and filter, and every item.

Three kinds of model: causal and sequence-to-sequence ones through lm-eval's own classes, or causal ones through vLLM;
encoders with a classification head, which lm-eval does not know, through a class of this package.
"""

from bench.score.guard import check
from bench.score.merged import check_merged
from bench.score.retention import Retention, before_training
from bench.score.settings import Outcome, Score, Scored, Scoring
from bench.score.stage import score

__all__ = [
    "Outcome", "Retention", "Score", "Scored", "Scoring", "before_training", "check", "check_merged", "score",
]  # fmt: skip
