"""LoRA-Pro (Wang et al. 2024, ICLR 2025, theorems 2.1 to 2.3, arXiv:2407.18242).

The gradients of A and B are replaced by those that move W most nearly along its own gradient; of all such pairs, by the
one that is closest to the gradients that were there. `mode: efficient` hands them to AdamW. `mode: full`, which the
authors' code at fe26027 has, keeps Adam's moments of the induced gradient in W's shape and projects its step.

Departs from that code: s is the layer's, where theirs says 16 / 8 in a line of its own; the Grams' pseudo-inverses are
relative, where theirs adds 1e-8 I; Adam counts from step 1, where its counter is raised before the first use; moments
are float32. The suite's choice, where both papers and code are silent: weight decay acts on A and B, decoupled.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT
from bench.systems.base import Clock, Host, Pair, State, System, Tensors, needs_pair, refuses_dora, refuses_loraplus
from bench.systems.grams import Gram


def closest(
    A: Float[Tensor, "r in"],
    B: Float[Tensor, "out r"],
    g_A: Float[Tensor, "r in"],
    g_B: Float[Tensor, "out r"],
    scaling: float,
) -> dict[str, Tensor]:
    """The pair (dA, dB) for which s (dB A + B dA) is the projection of G on all that A and B can move W by.

    dA = (BᵀB)⁺ g_A / s² + X A and dB = (I - P_B) g_B (AAᵀ)⁺ / s² - B X, where X solves
    BᵀB X + X AAᵀ = -(BᵀB)⁺ g_A Aᵀ / s² and leaves the projection as it is.

    Args:
        A: lora_A.
        B: lora_B.
        g_A: s Bᵀ G.
        g_B: s G Aᵀ.
        scaling: s.
    """
    of_A, of_B = Gram.of_columns(A.T), Gram.of_columns(B)
    in_float64 = (tensor.double() for tensor in (A, B, g_A / scaling**2, g_B / scaling**2))
    lora_A, lora_B, of_left, of_right = in_float64
    dA = of_B.inverse() @ of_left
    dB = of_right @ of_A.inverse()
    dB = dB - lora_B @ (of_B.inverse() @ (lora_B.T @ dB))
    sums = of_B.values[:, None] + of_A.values
    wanted = -of_B.vectors.T @ (dA @ lora_A.T) @ of_A.vectors
    X = of_B.vectors @ torch.where(sums > 0, wanted / sums, 0.0) @ of_A.vectors.T
    return {"lora_A": (dA + X @ lora_A).to(A.dtype), "lora_B": (dB - lora_B @ X).to(B.dtype)}


@dataclass(frozen=True, config=STRICT)
class LoRAPro(System):
    """Gradients of A and B that move W as nearly along G as their place allows."""

    label: ClassVar[str] = "LoRA-Pro"
    maps_gradients: ClassVar[bool] = True

    mode: Literal["efficient", "full"]
    beta1: NonNegativeFloat
    beta2: NonNegativeFloat
    epsilon: PositiveFloat

    @property
    def num_copies(self) -> int:
        """Adam's two moments in full mode."""
        return 2 if self.mode == "full" else 0

    def check(self, host: Host) -> None:
        """Refuses methods that do not train A and B, DoRA and LoRA+."""
        needs_pair("LoRA-Pro", host)
        refuses_dora("LoRA-Pro", host, "its gradients are those of W + s B A, not of a direction with a magnitude")
        refuses_loraplus("LoRA-Pro", host, "a rate of its own for B undoes the projection")

    def gradients(self, pair: Pair) -> Tensors:
        """As `closest`."""
        tensors, gradients = pair.tensors, pair.gradients
        return closest(tensors["lora_A"], tensors["lora_B"], gradients["lora_A"], gradients["lora_B"], pair.scaling)

    def descent(self, pair: Pair, state: State, clock: Clock) -> Tensors | None:
        """In full mode: Adam's direction u in W's shape, taken to A and B as a gradient of W would be."""
        if self.mode == "efficient":
            return None
        A, B, s = pair.tensors["lora_A"], pair.tensors["lora_B"], pair.scaling
        g = s * (pair.gradients["lora_B"] @ A + B @ pair.gradients["lora_A"])
        mean = state.setdefault(f"{pair.name}/exp_avg", torch.zeros_like(g))
        square = state.setdefault(f"{pair.name}/exp_avg_sq", torch.zeros_like(g))
        mean.lerp_(g, 1 - self.beta1)
        square.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        u = mean / (1 - self.beta1**clock.step)
        u = u / ((square / (1 - self.beta2**clock.step)).sqrt() + self.epsilon)
        return closest(A, B, s * B.T @ u, s * u @ A.T, s)
