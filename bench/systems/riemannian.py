"""Riemannian preconditioning (Zhang and Pilanci 2024, arXiv:2402.02347).

g_A becomes (BᵀB + reg I)⁻¹ g_A and g_B becomes g_B (AAᵀ + reg I)⁻¹, then AdamW. Without reg the step in W does not
depend on how the product is shared between the factors: A → M⁻¹A, B → BM leaves it as it is. Agrees with PEFT 0.21.2's
create_riemannian_optimizer, which has no 1/s² either. Zhang and Pilanci's own code has not been read.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT
from bench.systems.base import Host, Pair, System, Tensors, needs_pair, refuses_dora, refuses_loraplus
from bench.systems.grams import Gram


@dataclass(frozen=True, config=STRICT)
class Riemannian(System):
    """Each factor's gradient divided by the Gram matrix of the other; reg = 0: by its pseudo-inverse."""

    label: ClassVar[str] = "Riemannian"
    maps_gradients: ClassVar[bool] = True

    reg: NonNegativeFloat

    def check(self, host: Host) -> None:
        """Refuses methods that do not train A and B, DoRA and LoRA+."""
        needs_pair("Riemannian", host)
        refuses_dora("Riemannian", host, "its metric is that of W + s B A, not of a direction with a magnitude")
        refuses_loraplus("Riemannian", host, "a rate of its own for B undoes the metric")

    def gradients(self, pair: Pair) -> Tensors:
        """(BᵀB + reg I)⁻¹ g_A and g_B (AAᵀ + reg I)⁻¹."""
        of_A, of_B = Gram.of_columns(pair.tensors["lora_A"].T), Gram.of_columns(pair.tensors["lora_B"])
        g_A, g_B = pair.gradients["lora_A"], pair.gradients["lora_B"]
        return {
            "lora_A": (of_B.inverse(self.reg) @ g_A.double()).to(g_A.dtype),
            "lora_B": (g_B.double() @ of_A.inverse(self.reg)).to(g_B.dtype),
        }
