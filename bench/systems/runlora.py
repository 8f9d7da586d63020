"""RunLoRA (Cherniuk et al. 2023, arXiv:2312.03415): the same products in the order that costs least.

For T tokens the layer is W x + s B (A x) or (W + s B A) x, whichever takes fewer multiplications; so are the gradients
of A, B and x, each by one of two orders, chosen together, since they share products. A x is not stored but computed
again. The choice follows from shapes alone: timing would not be reproducible.

Has the orders of the authors' code at 8b99333, as read. Departs: that can time them, leaves dropout out, and folds s
into a copy of a factor at each call. The sum W + s B A in bfloat16 rounds the update away: it is refused.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT
from bench.systems.base import PAIR, Host, System, refuses_dora


class Orders(NamedTuple):
    """Which products are formed.

    Attributes:
        merged: forward by (W + s B A) x.
        of_A: dL/dA through dL/dW = dYᵀ X, instead of (dY B)ᵀ X.
        of_B: dL/dB through dL/dW, instead of dYᵀ (X Aᵀ).
        of_x: dL/dX through W + s B A, instead of two products.
    """

    merged: bool
    of_A: bool
    of_B: bool
    of_x: bool


def forward_cost(merged: bool, tokens: int, num_in: int, num_out: int, r: int) -> int:
    """Multiplications and additions of the forward pass."""
    small = r * num_in * num_out if merged else tokens * r * (num_in + num_out)
    return 2 * (tokens * num_in * num_out + small)


def backward_cost(orders: Orders, tokens: int, num_in: int, num_out: int, r: int, needs_x: bool) -> int:
    """Multiplications and additions of the backward pass; a product that two gradients share is counted once.

    Args:
        orders: of the three gradients.
        tokens: T.
        num_in: columns of W.
        num_out: rows of W.
        r: rank.
        needs_x: whether dL/dX is asked for.
    """
    whole, merge = tokens * num_in * num_out, r * num_in * num_out
    of_rows, of_columns = tokens * r * num_in, tokens * r * num_out  # X Aᵀ or (dY B)ᵀ X; dY B or dYᵀ (X Aᵀ)
    found = whole if orders.of_A or orders.of_B else 0
    found += merge if orders.of_A else of_rows
    found += merge if orders.of_B else of_rows + of_columns
    uses_rows = not orders.of_A
    if needs_x:
        found += whole + (merge if orders.of_x else of_rows)
        uses_rows |= not orders.of_x
    return 2 * (found + (of_columns if uses_rows else 0))


def cheapest(tokens: int, num_in: int, num_out: int, r: int, needs_x: bool) -> Orders:
    """The orders with the fewest multiplications; of equals the ones that form fewer matrices of W's size."""
    flags = (False, True)
    merged = min(flags, key=lambda one: forward_cost(one, tokens, num_in, num_out, r))
    ways = (Orders(merged, of_A, of_B, of_x) for of_A in flags for of_B in flags for of_x in flags)
    return min(ways, key=lambda one: backward_cost(one, tokens, num_in, num_out, r, needs_x))


class Product(torch.autograd.Function):
    """`x Wᵀ + s x Aᵀ Bᵀ` and its gradients in x, A and B, in given orders; x is (tokens, in)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, A: Tensor, B: Tensor, scaling: float, orders: Orders) -> Tensor:
        """(tokens, out)."""
        ctx.save_for_backward(x, W, A, B)
        ctx.scaling, ctx.orders = scaling, orders
        if orders.merged:
            return x @ torch.addmm(W, B, A, alpha=scaling).T
        return torch.addmm(x @ W.T, x @ A.T, B.T, alpha=scaling)

    @staticmethod
    def backward(ctx: Any, dY: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None, None]:
        """dL/dx, dL/dA and dL/dB."""
        x, W, A, B = ctx.saved_tensors
        s, orders, needs_x = ctx.scaling, ctx.orders, ctx.needs_input_grad[0]
        G = dY.T @ x if orders.of_A or orders.of_B else dY.new_empty(0)
        columns = dY @ B if not orders.of_A or (needs_x and not orders.of_x) else dY.new_empty(0)
        dA = B.T @ G if orders.of_A else columns.T @ x
        dB = G @ A.T if orders.of_B else dY.T @ (x @ A.T)
        dx = None
        if needs_x and orders.of_x:
            dx = dY @ torch.addmm(W, B, A, alpha=s)
        elif needs_x:
            dx = torch.addmm(dY @ W, columns, A, alpha=s)
        return dx, None, s * dA, s * dB, None, None


@dataclass(frozen=True, config=STRICT)
class RunLoRA(System):
    """LoRA's own products, in the order of the fewest multiplications."""

    label: ClassVar[str] = "RunLoRA"
    has_kernel: ClassVar[bool] = True

    def check(self, host: Host) -> None:
        """Refuses methods that do not train A and B alone, DoRA, and products in bfloat16."""
        if not host.method.trains or not host.method.trains <= PAIR:
            raise ValueError(
                f"RunLoRA knows the products of lora_A and lora_B, and method={host.name} trains "
                f"{', '.join(sorted(host.method.trains)) or 'nothing'}; take another, such as method=hu, or system=none"
            )
        refuses_dora("RunLoRA", host, "its products are those of W + s B A")
        if host.dtype != "float32":
            raise ValueError(
                f"RunLoRA adds s B A to W where that is cheaper, which {host.dtype} rounds away; take "
                "model.dtype=float32 and train.precision=fp32, or system=none"
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
        rows = x.reshape(-1, x.shape[-1])
        orders = cheapest(len(rows), W.shape[1], W.shape[0], len(A), x.requires_grad)
        found: Tensor = Product.apply(rows, W, A, B, scaling, orders)
        return found.reshape(*x.shape[:-1], len(W))
