"""VeLoRA (Miles et al. 2024, NeurIPS, arXiv:2405.17991): A's input is kept as one number a sub-token for its gradient.

An input x is cut into g sub-tokens x_j of in / g entries; kept is z_j = ⟨x_j, v⟩, with v the normalised mean of all
sub-tokens of the batch, and the gradient of A is formed with c z_j v in the place of x_j: it is c g_A Π, Π = I_g ⊗ vvᵀ.
The forward pass, and the gradients of B and of the input, are exact.

Agrees with PEFT 0.21.2's velora_config in float32; its v is rounded to the dtype of the base weight. The authors' code
at a6415bc compresses in float16, and in fine-tuning keeps the v of the first batch and compresses v_proj and down_proj
only; here, as in PEFT, v is that of each batch, so that nothing has to be saved to resume, and every adapted layer is
compressed. Several processes, and batches gone through in pieces, have a v for each part.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT, Factors, Layer
from bench.systems.base import PAIR, Host, System, refuses_dora, refuses_loraplus


def sub_tokens(x: Float[Tensor, "tokens in"], num_groups: int) -> Float[Tensor, "tokens groups size"]:
    """x cut into groups of equally many entries, behind it as many zeros as that takes."""
    missing = -x.shape[-1] % num_groups
    return torch.nn.functional.pad(x, (0, missing)).unflatten(-1, (num_groups, -1))


def direction(x: Float[Tensor, "tokens in"], num_groups: int) -> Float[Tensor, "size"]:
    """v, the mean of all sub-tokens, of length 1."""
    mean = sub_tokens(x, num_groups).mean(dim=(0, 1))
    return mean / mean.norm().clamp(min=torch.finfo(mean.dtype).tiny)


def projected(rows: Float[Tensor, "k in"], v: Float[Tensor, "size"], num_groups: int) -> Float[Tensor, "k in"]:
    """rows Π: each sub-token projected on v."""
    return ((sub_tokens(rows, num_groups) @ v)[..., None] * v).flatten(1)[:, : rows.shape[1]]


class Compressed(torch.autograd.Function):
    """`x Aᵀ`, which keeps one number a sub-token of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, num_groups: int, scale: float) -> Tensor:
        """(tokens, r)."""
        v = direction(x, num_groups)
        ctx.save_for_backward(sub_tokens(x, num_groups) @ v, v, A)
        ctx.scale = scale
        return x @ A.T

    @staticmethod
    def backward(ctx: Any, dZ: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """The exact gradient of x, and that of A with c z v in the place of x."""
        z, v, A = ctx.saved_tensors
        dA = ctx.scale * ((dZ.T.to(z.dtype) @ z)[..., None] * v).flatten(1)[:, : A.shape[1]]
        return dZ @ A.to(dZ.dtype) if ctx.needs_input_grad[0] else None, dA.to(A.dtype), None, None


@dataclass(frozen=True, config=STRICT)
class VeLoRA(System):
    """A gradient of A from compressed inputs.

    Attributes:
        num_groups: g.
        scale: c.
    """

    label: ClassVar[str] = "VeLoRA"
    has_kernel: ClassVar[bool] = True

    num_groups: PositiveInt
    scale: PositiveFloat

    def check(self, host: Host) -> None:
        """Refuses methods that do not train A, or another matrix with it than B, DoRA and LoRA+."""
        if "lora_A" not in host.method.trains or not host.method.trains <= PAIR:
            raise ValueError(
                f"VeLoRA compresses what the gradient of lora_A takes, and method={host.name} trains "
                f"{', '.join(sorted(host.method.trains)) or 'nothing'}; take another, such as method=hu, or system=none"
            )
        refuses_dora("VeLoRA", host, "DoRA keeps the input for its magnitudes")
        refuses_loraplus("VeLoRA", host, "system.scale already sets the gradient of A against that of B")

    def check_layer(self, layer: Layer) -> None:
        """Refuses more groups than a layer has inputs."""
        if self.num_groups > layer.weight.shape[1]:
            raise ValueError(
                f"system.num_groups={self.num_groups} is more than the {layer.weight.shape[1]} inputs of {layer.name}; "
                "take fewer, or system=none"
            )

    def kernel(
        self,
        x: Float[Tensor, "*tokens in"],
        W: Float[Tensor, "out in"],
        A: Float[Tensor, "r in"],
        B: Float[Tensor, "out r"],
        scaling: float,
    ) -> Float[Tensor, "*tokens out"]:
        """W x + s B A x of every token."""
        rows = x.reshape(-1, x.shape[-1]).to(A.dtype)
        inner: Tensor = Compressed.apply(rows, A, self.num_groups, self.scale)
        change = torch.nn.functional.linear(inner, B).reshape(*x.shape[:-1], len(W))
        result = torch.nn.functional.linear(x, W)
        return (result + scaling * change).to(result.dtype)

    def induced(
        self,
        G: Float[Tensor, "out in"],
        factors: Factors | None,
        scaling: float,
        trains: frozenset[str],
        mean_input: Float[Tensor, "in"] | None = None,
    ) -> Float[Tensor, "out in"] | None:
        """s² (G AᵀA + c B BᵀG Π), with the v of these inputs; of the first term where B trains only."""
        if factors is None or mean_input is None:
            return None
        A, B = factors.lora_A, factors.lora_B
        v = direction(mean_input[None], self.num_groups)
        found = self.scale * B @ projected(B.T @ G, v, self.num_groups)
        return scaling**2 * (found + G @ A.T @ A if "lora_B" in trains else found)
