"""Initialisation at the true shapes of Llama-3.2-3B and Mistral-7B on a CUDA card, with random bfloat16 weights.

50 samples of 512 random tokens, r = 8. The exact LoRA-GA and LoRA-SB of the suite, from the model to the filled
adapters; PEFT's LoRA-GA on the same card; and passes through activations alone, above which memory counts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import floors
import ours
import peers
from cost import Cost, measured
from process import Options, fresh, interleaved
from shape import random_batches
from table import Goal, Report, Row

MODELS = {"llama3_2_3b": "Llama-3.2-3B", "mistral_7b": "Mistral-7B"}
NUM_SAMPLES, NUM_TOKENS, BATCH_SIZE, R = 50, 512, 2, 8
GOALS = {"mistral_7b": (Goal(15, absolute=True), Goal(2, absolute=True))}  # seconds, GB


def _peft(model: PreTrainedModel, batches: list[dict[str, Tensor]]) -> None:
    peers.lora_ga_gradient(model, batches, R)
    peers.lora_ga_factors(model, R)


CONTENDERS = {
    "floor_activations": floors.activations,
    "LoRA-GA": lambda model, batches: ours.initialised(model, "lora_ga", R, batches),
    "LoRA-SB": lambda model, batches: ours.initialised(model, "lora_sb", R, batches),
    "PEFT": _peft,
}


@dataclass(frozen=True)
class Card:
    """What one contender took on the card, and what the card and the model are."""

    name: str
    capability: str
    memory_bytes: int
    num_parameters: int
    cost: Cost | None  # None: out of memory


def run(options: Options) -> Report | None:
    """All contenders in turns, a process each; None, and a line that says so, without a card."""
    if not torch.cuda.is_available():
        print("gpu: skipped, it needs a CUDA card\n", flush=True)
        return None
    num_samples, repetitions = options.samples or NUM_SAMPLES, options.repetitions or 3
    contenders: dict[str, Callable[[], Card]] = {
        f"{model}, {name}": functools.partial(fresh, on_card, model=model, contender=name, num_samples=num_samples)
        for model in MODELS
        for name in CONTENDERS
    }
    cards = interleaved(contenders, repetitions)
    rows = [row for model in MODELS for row in _rows(model, cards)]
    shapes: dict[str, Any] = {"num_tokens": NUM_TOKENS, "batch_size": BATCH_SIZE, "r": R}
    shapes["models"] = {model: _architecture(model) for model in MODELS}
    details = {name: [asdict(card) for card in found] for name, found in cards.items()}
    return Report(rows, shapes, repetitions, num_samples, details)


def on_card(model: str, contender: str, num_samples: int) -> Card:
    """One contender, after a first batch that is not timed, because it loads the card's kernels."""
    made, batches = _model(_architecture(model)), _batches(_architecture(model), num_samples)
    floors.activations(made, batches[:1])
    made.requires_grad_(True)
    num_parameters = sum(parameter.numel() for parameter in made.parameters())
    cost: Cost | None
    try:
        with measured() as cost:
            CONTENDERS[contender](made, batches)
    except torch.OutOfMemoryError:
        cost = None
    properties = torch.cuda.get_device_properties(0)
    capability = f"{properties.major}.{properties.minor}"
    return Card(properties.name, capability, properties.total_memory, num_parameters, cost)


def _rows(model: str, cards: Mapping[str, list[Card]]) -> list[Row]:
    seconds_goal, memory_goal = GOALS.get(model, (None, None))
    peft = cards[f"{model}, PEFT"]
    floor = cards[f"{model}, floor_activations"]
    rows = []
    for name in ("LoRA-GA", "LoRA-SB"):
        mine, what = cards[f"{model}, {name}"], f"{MODELS[model]}: {name}"
        rows.append(Row(what, "s", _seconds(mine), _seconds(peft), "PEFT LoRA-GA", seconds_goal))
        memory = _over_activations(mine, floor), _over_activations(peft, floor)
        rows.append(Row(f"{what}, memory over activations", "GB", *memory, "PEFT LoRA-GA", memory_goal))
    return rows


def _seconds(cards: list[Card]) -> list[float]:
    return [card.cost.seconds for card in cards if card.cost]


def _over_activations(cards: list[Card], floor: list[Card]) -> list[float]:
    """GB of extra peak memory above what forward and backward through activations take."""
    pairs = [(card.cost, low.cost) for card, low in zip(cards, floor, strict=True)]
    return [(cost.extra_bytes - low.extra_bytes) / 1e9 for cost, low in pairs if cost and low]


def _architecture(model: str) -> dict[str, Any]:
    """Type and sizes of a Hub model, as its YAML states them."""
    return ours.composed(f"model={model}").model.architecture


def _model(architecture: dict[str, Any]) -> PreTrainedModel:
    """Random weights, made on the card."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**architecture), dtype=torch.bfloat16)


def _batches(architecture: dict[str, Any], num_samples: int) -> list[dict[str, Tensor]]:
    batches = random_batches(architecture["vocab_size"], num_samples, NUM_TOKENS, BATCH_SIZE)
    return [{name: tensor.cuda() for name, tensor in batch.items()} for batch in batches]
