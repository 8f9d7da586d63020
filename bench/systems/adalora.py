"""AdaLoRA (Zhang et al. 2023, ICLR, arXiv:2303.10512): singular triplets whose number is cut while training.

The adapter is B diag(E) A with r0 triplets a layer and E = 0. After each step every entry w of A, B and E has its
smoothed sensitivity |w dL/dw| times the smoothed uncertainty of that as its importance; a triplet's is that of its E
plus the means over its row of A and its column of B. A budget that falls from r0 to r a layer is shared over all
layers: the E of the least important triplets become zero. A penalty keeps A and B near orthonormal.

Agrees with PEFT 0.21.2 given the same tensors and the same number of steps, but for one cut more that PEFT makes at the
end of the fall, whatever the interval; follows the authors' loralib at d10f5eb as read. Departs: steps are counted from
1, where both codes are handed the number of steps done before; the penalty is added once a step, and its gradient is
left out where a factor is orthonormal to rounding, whose direction it would have. The suite's choices, where the
paper's scripts set a value for each data set: r0, the two phases and the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT, Factors, Layer, Rank
from bench.systems.base import (
    Clock,
    Host,
    Pair,
    State,
    System,
    distance_from_orthonormal,
    needs_method,
    refuses_dora,
    refuses_loraplus,
)

PARTS = ("lora_E", "lora_A", "lora_B")
STANDARD_DEVIATION = 0.02  # of A and B: loralib/adalora.py
Share = Annotated[float, Field(ge=0, lt=1)]


def budget(step: int, most: int, least: int, first: int, last: int) -> int:
    """Triplets of all layers together that are kept after a step: a cubic fall from `most` to `least`.

    Args:
        step: from 1.
        most: at the start.
        least: at the end.
        first: last step at which all are kept.
        last: step from which `least` are kept.
    """
    if step <= first:
        return most
    if step >= last:
        return least
    return int(least + (most - least) * (1 - (step - first) / (last - first)) ** 3)


def smoothed(old: tuple[Tensor, Tensor], sensitivity: Tensor, beta1: float, beta2: float) -> tuple[Tensor, Tensor]:
    """The averages of a tensor's sensitivity and of its uncertainty, |sensitivity - average|, after one more step."""
    mean = beta1 * old[0] + (1 - beta1) * sensitivity
    return mean, beta2 * old[1] + (1 - beta2) * (sensitivity - mean).abs()


def kept(scores: Sequence[Float[Tensor, "r"]], number: int) -> list[Bool[Tensor, "r"]]:
    """Which triplets stay: those above the score of the best one that goes. Ties there go, all of them.

    Args:
        scores: of each layer.
        number: of triplets that stay, of all layers together.
    """
    together = torch.cat(list(scores))
    num_cut = len(together) - number
    if num_cut <= 0:
        return [torch.ones_like(one, dtype=torch.bool) for one in scores]
    threshold = together.kthvalue(num_cut).values
    return [one > threshold for one in scores]


@dataclass(frozen=True, config=STRICT)
class AdaLoRA(System):
    """A budget of ranks, shared over the layers by importance; its start is its own.

    Attributes:
        target_r: triplets of a layer at the end, on average over the layers.
        init_r: r0; None: 1.5 target_r, rounded up.
        initial: share of max_steps at whose end the budget begins to fall.
        final: share of max_steps, at the end, in which it stays at target_r.
        interval: steps between two cuts; None: 1 below 2000 steps, else a thousandth of them.
        orth_reg_weight: γ of the penalty.
        beta1: of the average sensitivity.
        beta2: of the average uncertainty.
    """

    label: ClassVar[str] = "AdaLoRA"
    gated: ClassVar[bool] = True
    own_start: ClassVar[bool] = True

    target_r: PositiveInt
    init_r: PositiveInt | None
    initial: Share
    final: Share
    interval: PositiveInt | None
    orth_reg_weight: NonNegativeFloat
    beta1: Share
    beta2: Share

    @property
    def initial_r(self) -> int:
        """r0."""
        return self.init_r or math.ceil(1.5 * self.target_r)

    def phases(self, max_steps: int) -> tuple[int, int, int]:
        """The last step with all triplets, the first with the target's, and the interval."""
        interval = self.interval or (1 if max_steps < 2000 else max_steps // 1000)
        return int(self.initial * max_steps), max_steps - int(self.final * max_steps), interval

    def check(self, host: Host) -> None:
        """Refuses other starts, DoRA, LoRA+, a target that cuts nothing, and phases that leave no step between them."""
        needs_method("AdaLoRA", host, ("hu",), "its triplets have a start of their own")
        refuses_dora("AdaLoRA", host, "importance is that of W + s B diag(E) A, not of a direction with a magnitude")
        refuses_loraplus("AdaLoRA", host, "its scripts know one rate")
        if self.target_r >= self.initial_r:
            raise ValueError(
                f"system.target_r={self.target_r} must be below system.init_r={self.init_r}, from which the budget "
                f"falls; take system.init_r={math.ceil(1.5 * self.target_r)}, or system=none"
            )
        first, last, _ = self.phases(host.max_steps)
        if first >= last:
            raise ValueError(
                f"system.initial={self.initial:g} and system.final={self.final:g} leave no step of "
                f"train.max_steps={host.max_steps} between them in which the budget could fall; take shares whose sum "
                "is below 1, or more steps"
            )

    def check_layer(self, layer: Layer) -> None:
        """Refuses more triplets than a layer has."""
        if self.initial_r > (smaller := min(layer.weight.shape)):
            raise ValueError(
                f"AdaLoRA starts with {self.initial_r} triplets, more than the smaller side {smaller} of {layer.name}; "
                f"take system.init_r of at most {smaller}, or system=none"
            )

    def rank(self, rank: Rank) -> Rank:
        """r0, with α such that α / r0 is loralib's α / (r0 + 1e-5): the initial rank divides until the end."""
        r = self.initial_r
        return replace(rank, r=r, lora_alpha=rank.lora_alpha * r / (r + 1e-5))

    def start(self, layer: Layer, factors: Factors, generator: torch.Generator) -> Factors:
        """lora_A and lora_B normal with standard deviation 0.02, lora_E zero."""
        num_out, num_in = layer.weight.shape
        lora_A = torch.empty(layer.r, num_in).normal_(std=STANDARD_DEVIATION, generator=generator)
        lora_B = torch.empty(num_out, layer.r).normal_(std=STANDARD_DEVIATION, generator=generator)
        return Factors(lora_A, lora_B, lora_E=torch.zeros(layer.r))

    def penalty(self, pairs: Sequence[Pair]) -> Tensor | None:
        """γ times the mean over all A and B of their distance from orthonormal rows or columns."""
        if not self.orth_reg_weight:
            return None
        factors = [rows for pair in pairs for rows in (pair.tensors["lora_A"], pair.tensors["lora_B"].T)]
        return self.orth_reg_weight * torch.stack([distance_from_orthonormal(rows) for rows in factors]).mean()

    def after_step(self, pairs: Sequence[Pair], state: State, clock: Clock) -> None:
        """Updates the importance, and cuts where a cut is due."""
        first, last, interval = self.phases(clock.max_steps)
        if clock.step < last:
            for pair in pairs:
                self._observe(pair, state)
        if clock.step <= last and clock.step % interval:
            return
        most = sum(len(pair.tensors["lora_E"]) for pair in pairs)
        number = budget(clock.step, most, self.target_r * len(pairs), first, last)
        scores = [self._importance(pair, state) for pair in pairs]
        for pair, stays in zip(pairs, kept(scores, number), strict=True):
            pair.tensors["lora_E"].mul_(stays)

    def _observe(self, pair: Pair, state: State) -> None:
        for part in PARTS:
            tensor, mean, spread = pair.tensors[part], f"{pair.name}/{part}/mean", f"{pair.name}/{part}/uncertainty"
            zero = torch.zeros_like(tensor)
            sensitivity = (tensor * pair.gradients[part]).abs() if part in pair.gradients else zero
            old = state.get(mean, zero), state.get(spread, zero)
            state[mean], state[spread] = smoothed(old, sensitivity, self.beta1, self.beta2)

    def _importance(self, pair: Pair, state: State) -> Float[Tensor, "r"]:
        E, A, B = (state[f"{pair.name}/{p}/mean"] * state[f"{pair.name}/{p}/uncertainty"] for p in PARTS)
        return E + A.mean(dim=1) + B.mean(dim=0)
