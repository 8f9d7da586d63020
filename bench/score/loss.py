"""The loss of a scored split's targets given their prompts, teacher-forced: a score beside the task's metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.model.layers import evaluating
from bench.model.loss import row_losses
from bench.model.pieces import Cutter, sorted_rows
from bench.runs.record import HASH_DIGITS, LOSS
from bench.score.settings import Outcome, Score, Scoring
from bench.tasks.examples import Example, Picture, collate

if TYPE_CHECKING:
    from bench.model.load import LoadedModel
    from bench.tasks.targets import Targets

DIGITS = 7  # of an item's loss: float32 has no more


def target_losses(
    loaded: LoadedModel, targets: Mapping[str, Targets], settings: Scoring
) -> tuple[list[Score], list[Outcome]]:
    """The mean loss of each dataset's targets, in nats per label token (of a classifier: per example), and the items'.

    An item's metric is the pair of its loss, summed over its label tokens, and their number: the score is the ratio of
    the sums over items.

    Args:
        loaded: the model, possibly a PeftModel.
        targets: by dataset.
        settings: precision, and tokens at a time.
    """
    scores, outcomes = [], []
    for name, target in targets.items():
        of_examples = losses_of(loaded, target.examples, settings)
        of_items = torch.zeros(len(target.hashes), 2, dtype=torch.float64).index_add_(0, target.rows, of_examples)
        items = [(float(f"{loss:.{DIGITS}g}"), int(num_tokens)) for loss, num_tokens in of_items.tolist()]
        value, stderr = ratio(items)
        scores.append(
            Score(
                task=name,
                metric=LOSS,
                value=value,
                stderr=stderr,
                num_examples=len(items),
                higher_is_better=False,
                majority=None,
            )
        )
        outcomes += [
            Outcome(name, LOSS, number, digest[:HASH_DIGITS], "", "", {LOSS: list(item)}, None)
            for number, (digest, item) in enumerate(zip(target.hashes, items, strict=True))
        ]
    return scores, outcomes


@torch.no_grad()
def losses_of(loaded: LoadedModel, examples: Iterable[Example | Picture], settings: Scoring) -> Tensor:
    """Loss, summed over label tokens, and their number: (examples, 2), float64, on the CPU.

    Examples of about one length go through the model together, so that there is hardly any padding.

    Args:
        loaded: the model; left in the mode it was in.
        examples: of its kind.
        settings: precision, and tokens at a time.
    """
    model, examples = loaded.model, list(examples)
    cutter = Cutter(model, settings.precision, pack=False)
    most_tokens = min(cutter.most_tokens, settings.batch_tokens)
    found = torch.zeros(len(examples), 2, dtype=torch.float64)
    with evaluating(model):
        for rows in sorted_rows([example.num_tokens for example in examples], cutter.pass_tokens, most_tokens):
            chosen = [index for row in rows for index in row]
            batch = collate([examples[index] for index in chosen], loaded.pad_token_id)
            given = {name: tensor.to(model.device) for name, tensor in batch.items()}
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=settings.precision == "bf16"):
                sums, numbers = row_losses(model, given)
            found[chosen] = torch.stack([sums, numbers.double()], dim=1).cpu()
    return found


def ratio(items: Sequence[tuple[float, int]]) -> tuple[float, float | None]:
    """Sum of losses over sum of label tokens, and its standard error over items; None for a single one.

    The error is that of a ratio of two means to first order (Cochran 1977, Sampling Techniques, 6.4).
    """
    losses, numbers = (math.fsum(column) for column in zip(*items, strict=True))
    mean = losses / numbers
    if len(items) < 2:
        return mean, None
    squares = math.fsum((loss - mean * number) ** 2 for loss, number in items)
    return mean, math.sqrt(squares * len(items) / (len(items) - 1)) / numbers
