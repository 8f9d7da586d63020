"""Flora (Hao, Cao and Mou 2024, ICML, arXiv:2402.03293): full weights, with a momentum kept as a random projection.

Adafactor, whose momentum M is stored as the product with P of entries normal with variance 1/r, on the smaller side:
the direction is (1 - β) u + β up(M), then M ← β M + (1 - β) down(u), and every `kappa` steps M is moved to a new P.
With `compress: accumulation` it is the gradient that is projected, with a new P each step, and there is no momentum;
since projection is linear, that of a sum over batches is made once. As in the authors' code, the rate is scaled by the
weight's root mean square, an update's is clipped at 1, and a matrix of which one side is shorter than r or a quarter of
the other is not compressed.

Agrees with the authors' torch code at f329bbc over the same P. Departs: P comes from a stream of its own; weight decay
is that of the run's rate, theirs that of the scaled one. Only the target layers' weights train, so that adapters are
compared with what moves the same matrices; the paper trains everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from bench.methods.base import STRICT, Factors
from bench.systems.base import Clock, Host, Pair, State, System, Tensors, needs_method

DECAY_RATE, EPSILON, SMALLEST_SCALE, LONGEST = -0.8, 1e-30, 1e-3, 1.0  # Adafactor's, as flora.py:182-203 states them
LARGEST_ASPECT = 4  # flora.py:229: so that embeddings are left out


def projection(shape: torch.Size, r: int, generator: torch.Generator) -> Float[Tensor, "r smaller"]:
    """P for a matrix: normal, of variance 1/r, so that PᵀP is the identity on average."""
    drawn = torch.randn(r, min(shape), generator=generator, device=generator.device)
    return drawn / r**0.5


def down(X: Float[Tensor, "out in"], P: Float[Tensor, "r smaller"]) -> Tensor:
    """P X where X is wide, X Pᵀ elsewhere."""
    return P @ X if X.shape[0] < X.shape[1] else X @ P.T


def up(M: Tensor, P: Float[Tensor, "r smaller"], shape: torch.Size) -> Float[Tensor, "out in"]:
    """Pᵀ M or M P: what `down` has made, as a matrix of the weight's shape again."""
    return P.T @ M if shape[0] < shape[1] else M @ P


def root_mean_square(X: Tensor) -> Tensor:
    """Of the entries of X."""
    return X.square().mean().sqrt()


@dataclass(frozen=True, config=STRICT)
class Flora(System):
    """Adafactor on full weights, in the memory of low-rank factors.

    Attributes:
        compress: what is kept as a projection.
        r: rows of P.
        kappa: steps between two P of the momentum.
        beta1: β of the momentum.
    """

    label: ClassVar[str] = "Flora"
    only_targets: ClassVar[bool] = True

    compress: Literal["momentum", "accumulation"]
    r: PositiveInt
    kappa: PositiveInt
    beta1: Annotated[float, Field(gt=0, lt=1)]

    def check(self, host: Host) -> None:
        """Refuses everything but full fine-tuning."""
        needs_method("Flora", host, ("full_ft",), "it is an optimiser of full weights")

    def induced(
        self,
        G: Float[Tensor, "out in"],
        factors: Factors | None,
        scaling: float,
        trains: frozenset[str],
        mean_input: Float[Tensor, "in"] | None = None,
    ) -> Float[Tensor, "out in"] | None:
        """Of a projected gradient that of one draw of P; momentum starts along G itself."""
        if self.compress == "momentum" or not self.compresses(G.shape):
            return None
        P = projection(G.shape, self.r, torch.Generator(G.device).manual_seed(0)).to(G.dtype)
        return up(down(G, P), P, G.shape)

    def compresses(self, shape: torch.Size) -> bool:
        """Whether a matrix of this shape is projected."""
        return self.r <= min(shape) and max(shape) <= LARGEST_ASPECT * min(shape)

    def descent(self, pair: Pair, state: State, clock: Clock) -> Tensors:
        """The scaled and clipped update of one weight."""
        W, G, name = pair.tensors["weight"], pair.gradients["weight"], pair.name

        def drawn(index: int) -> Tensor:
            return projection(W.shape, self.r, clock.stream(f"flora/{name}/{index}", W.device)).to(G.dtype)

        if self.compress == "accumulation" and self.compresses(W.shape):
            G = up(down(G, drawn(clock.step)), drawn(clock.step), W.shape)
        u = self._preconditioned(G, name, state, clock.step)
        if self.compress == "momentum":
            u = self._with_momentum(u, name, state, clock.step, drawn)
        u = u / (root_mean_square(u) / LONGEST).clamp(min=1)
        return {"weight": u * root_mean_square(W).clamp(min=SMALLEST_SCALE)}

    def _preconditioned(self, G: Tensor, name: str, state: State, step: int) -> Tensor:
        """G over the root of the factored second moment, which the means of rows and columns stand for."""
        keep, squares = 1 - step**DECAY_RATE, G.square() + EPSILON
        row = state[f"{name}/row"] = keep * state.get(f"{name}/row", 0) + (1 - keep) * squares.mean(dim=1)
        column = state[f"{name}/column"] = keep * state.get(f"{name}/column", 0) + (1 - keep) * squares.mean(dim=0)
        return G * (row / row.mean()).rsqrt()[:, None] * column.rsqrt()

    def _with_momentum(self, u: Tensor, name: str, state: State, step: int, drawn: Callable[[int], Tensor]) -> Tensor:
        key = f"{name}/momentum"
        if not self.compresses(u.shape):
            state[key] = self.beta1 * state.get(key, 0) + (1 - self.beta1) * u
            return state[key]
        before, after = drawn((step - 1) // self.kappa), drawn(step // self.kappa)
        M = state.get(key, torch.zeros_like(down(u, before)))
        decoded = up(M, before, u.shape)
        if step % self.kappa == 0:
            M = down(decoded, after)
        state[key] = self.beta1 * M + (1 - self.beta1) * down(u, after)
        return (1 - self.beta1) * u + self.beta1 * decoded
