"""LoRA-FA (Zhang et al. 2023, arXiv:2308.03303): A stays where it starts, and B alone trains.

The gradient of B is multiplied by (AAᵀ)⁻¹ / s², so that it moves W along G projected on the rows of A, which is the
best that B can do. Agrees with PEFT 0.21.2's create_lorafa_optimizer, whose ridge of 1e-8 is left out and whose product
is in bfloat16 wherever that exists. Zhang et al.'s own code has not been read.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Method
from bench.systems.base import PAIR, Host, Pair, System, Tensors, refuses_dora, refuses_loraplus
from bench.systems.grams import Gram


@dataclass(frozen=True, config=STRICT)
class LoRAFA(System):
    """A frozen, B trained along the gradient that its rows let W follow."""

    label: ClassVar[str] = "LoRA-FA"
    maps_gradients: ClassVar[bool] = True

    def check(self, host: Host) -> None:
        """Refuses methods whose A starts at zero, which do not train B, or more than A and B; DoRA and LoRA+."""
        trains = host.method.trains
        if host.name == "reversed" or "lora_B" not in trains or not trains <= PAIR:
            does = (
                "starts with lora_A = 0"
                if host.name == "reversed"
                else f"trains {', '.join(sorted(trains)) or 'nothing'}"
            )
            raise ValueError(
                f"LoRA-FA trains lora_B over the rows that lora_A starts with, and method={host.name} {does}; take "
                "another, such as method=hu, or system=none"
            )
        refuses_dora("LoRA-FA", host, "its gradient is that of W + s B A, not of a direction with a magnitude")
        refuses_loraplus("LoRA-FA", host, "only B trains")

    def trains(self, method: Method) -> frozenset[str]:
        """B."""
        return frozenset({"lora_B"})

    def gradients(self, pair: Pair) -> Tensors:
        """g_B (AAᵀ)⁺ / s²."""
        inverse = Gram.of_columns(pair.tensors["lora_A"].T).inverse() / pair.scaling**2
        g_B = pair.gradients["lora_B"]
        return {"lora_B": (g_B.double() @ inverse).to(g_B.dtype)}
