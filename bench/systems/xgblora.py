"""XGBLoRA (Zhang et al. 2024, arXiv:2410.19694): rounds of rank-1 LoRA, each added to the weight before the next.

A round of `steps_a_round` steps trains fresh factors on some of the blocks; then W ← W + s B A, and new ones are drawn.
After T rounds the change of a weight has rank T. No code is public, and the text could not be read beyond the abstract
and the reviews, which leave open: the length of a round, the draw of a, the optimiser across rounds, penalties, and
what is drawn at random. The suite's choices: a as LoRA draws it, b zero, Adam begun anew in each round, one schedule of
the rate for all, whole blocks drawn without replacement, no penalty, boosters added with weight 1. The weight is
computed anew at each merge, in float32 from the pretrained one and all boosters, and rounded once: added one by one to
a bfloat16 weight they would be lost. Alignment is measured as if every block took part in the next step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Factors, Rank
from bench.systems.base import Clock, Host, Pair, State, System, needs_method, refuses_dora

_BLOCK = re.compile(r"\.\d+(?=\.)")


def block(layer: str) -> str:
    """The name of the block that a layer is in; the layer's own where it is in none."""
    found = _BLOCK.search(layer)
    return layer[: found.end()] if found else layer


@dataclass(frozen=True, config=STRICT)
class XGBLoRA(System):
    """A sum of boosters, each a low-rank adapter trained on the weight that the others have left.

    Attributes:
        r: of a booster.
        steps_a_round: κ; the last round may be shorter.
        num_blocks: that train in a round; None: all.
    """

    label: ClassVar[str] = "XGBLoRA"
    moves_base: ClassVar[bool] = True

    r: PositiveInt
    steps_a_round: PositiveInt
    num_blocks: PositiveInt | None

    def check(self, host: Host) -> None:
        """Refuses other starts than LoRA's, DoRA, and a round longer than the run."""
        needs_method("XGBLoRA", host, ("hu",), "it draws a start in each round, on a weight that no other one has seen")
        refuses_dora("XGBLoRA", host, "boosters are added to a weight without a magnitude")
        if self.steps_a_round > host.max_steps:
            raise ValueError(
                f"system.steps_a_round={self.steps_a_round} is longer than the run, train.max_steps={host.max_steps}; "
                "take fewer steps a round, or system=none"
            )

    def rank(self, rank: Rank) -> Rank:
        """r of a booster, at the same α / r."""
        return replace(rank, r=self.r, lora_alpha=rank.lora_alpha * self.r / rank.r)

    def active(self, names: Sequence[str], clock: Clock) -> Collection[str]:
        """The layers of the blocks that train in this round."""
        blocks = list(dict.fromkeys(map(block, names)))
        if self.num_blocks is None or self.num_blocks >= len(blocks):
            return names
        generator = clock.stream(f"xgblora/blocks/{(clock.step - 1) // self.steps_a_round}", torch.device("cpu"))
        drawn = torch.randperm(len(blocks), generator=generator).tolist()[: self.num_blocks]
        chosen = {blocks[index] for index in drawn}
        return [name for name in names if block(name) in chosen]

    def restarts(self, clock: Clock) -> bool:
        """After the last step of a round, but not after that of the run."""
        return clock.step % self.steps_a_round == 0 and clock.step < clock.max_steps

    def after_step(self, pairs: Sequence[Pair], state: State, clock: Clock) -> None:
        """At the end of a round: keeps the factors of the layers that it has trained, and draws new ones."""
        if not self.restarts(clock):
            return
        active = set(self.active([pair.name for pair in pairs], clock))
        for pair in pairs:
            A, B = pair.tensors["lora_A"], pair.tensors["lora_B"]
            if pair.name in active:
                of_A, of_B = f"{pair.name}/A", f"{pair.name}/B"
                state[of_A] = torch.cat([state[of_A], A]) if of_A in state else A.clone()
                state[of_B] = torch.cat([state[of_B], B], dim=1) if of_B in state else B.clone()
            generator = clock.stream(f"xgblora/{pair.name}/{clock.step // self.steps_a_round}", A.device)
            torch.nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator)
            B.zero_()

    def moved_by(self, layer: str, state: State) -> Factors | None:
        """All boosters of a layer so far, with the sign of what is taken out of its weight."""
        if f"{layer}/A" not in state:
            return None
        return Factors(state[f"{layer}/A"], -state[f"{layer}/B"])
