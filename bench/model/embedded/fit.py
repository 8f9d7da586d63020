"""What the recipes of the embedded models share: the training loop, the command line, and recipe.json."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What every recipe says of its training."""

    seed: int = 0
    steps: int
    warmup_steps: int = 200
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float = 1.0


def fit(
    model: PreTrainedModel,
    recipe: Schedule,
    batches: Iterator[dict[str, Tensor]],
    betas: tuple[float, float] = (0.9, 0.999),
    precision: str = "fp32",
) -> None:
    """Trains all weights by AdamW with a cosine schedule, one batch a step; leaves the model in evaluation mode.

    Args:
        model: changed in place.
        recipe: number of steps, schedule, weight decay and limit of the gradient's norm.
        batches: what the model is given, labels among it; at least as many as steps.
        betas: AdamW's.
        precision: bf16 is autocast.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=betas
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, recipe.warmup_steps, recipe.steps)
    model.train()
    progress = tqdm(range(recipe.steps), desc="pretrain", mininterval=2)
    for _ in progress:
        batch = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()


def command_line(doc: str | None, recipe: Any) -> argparse.ArgumentParser:
    """The folder to write to and, for a trial, fewer steps or another seed.

    Args:
        doc: of the recipe's module, whose first line describes it.
        recipe: its class, with the defaults.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=recipe.steps)
    parser.add_argument("--seed", type=int, default=recipe.seed)
    return parser


def write_recipe(folder: Path, recipe: dict[str, Any], **found: float) -> None:
    """Writes recipe.json beside a checkpoint: the recipe, what was measured, and the hash of the weights."""
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    written = {"recipe": recipe} | found | {"sha256": weights, "torch": torch.__version__}
    (folder / "recipe.json").write_text(json.dumps(written, indent=2) + "\n")
