"""A streaming sketch of a weight's gradient: its leading singular triplets without ever forming it.

G = Σ (dy) xᵀ over tokens is linear in the data, so Y = G Ω and Z = Ψ G can be summed batch by batch from a layer's
inputs and output gradients (Tropp, Yurtsever, Udell and Cevher 2017, arXiv:1609.00048, Algorithms 1 and 4). Departs
from the paper in the test matrices: one step of subspace iteration on the first batch turns Ω, and the first half of Ψ,
towards the gradient's own directions. On gradients of a pretrained model that makes the angles ten times smaller
(experiments/LOG.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bench.methods.svd import SVD, canonical, tall_svd

OVERSAMPLING = 20  # columns of Ω beyond k
ROWS_A_COLUMN = 1.5  # rows of Ψ for a column of Ω; at equal cost better than 2 or 1.25 (experiments/LOG.md)

Tokens = Float[Tensor, "tokens side"]


@dataclass
class GradientSketch:
    """The sketch of one layer's gradient, accumulated over batches.

    Attributes:
        Omega: right test matrix.
        Psi: left test matrix.
        Y: G Omega.
        Z: Psi G.
    """

    Omega: Float[Tensor, "in w"]
    Psi: Float[Tensor, "l out"]
    Y: Float[Tensor, "out w"]
    Z: Float[Tensor, "l in"]

    @classmethod
    def begin(cls, inputs: Tokens, output_gradient: Tokens, k: int, generator: torch.Generator) -> GradientSketch:
        """Chooses the test matrices from the first batch, and adds its share.

        Args:
            inputs: the layer's inputs, (tokens, in).
            output_gradient: dL/dy, (tokens, out).
            k: number of triplets to be taken from the sketch.
            generator: draws the random directions.
        """
        num_in, num_out = inputs.shape[1], output_gradient.shape[1]
        w = min(k + OVERSAMPLING, num_in, num_out)
        drawn = torch.randn(num_in, w, generator=generator).to(inputs)
        left = torch.linalg.qr(_columns(inputs, output_gradient, drawn)).Q
        right = torch.linalg.qr(_columns(output_gradient, inputs, left)).Q
        Y = _columns(inputs, output_gradient, right)
        num_more = min(round((ROWS_A_COLUMN - 1) * w), num_out - w)
        more = torch.randn(num_more, num_out, generator=generator).to(inputs) / num_out**0.5
        Psi = torch.cat([torch.linalg.qr(Y).Q.T, more])
        return cls(right, Psi, Y, _columns(output_gradient, inputs, Psi.T).T)

    def restart(self, inputs: Tokens, output_gradient: Tokens) -> None:
        """Recomputes Y and Z from this batch alone, after a broadcast has changed the test matrices."""
        self.Y.zero_()
        self.Z.zero_()
        self.add(inputs, output_gradient)

    def add(self, inputs: Tokens, output_gradient: Tokens) -> None:
        """Adds a batch to Y and Z."""
        self.Y += _columns(inputs, output_gradient, self.Omega)
        self.Z += _columns(output_gradient, inputs, self.Psi.T).T

    def svd(self, k: int, needed: int) -> SVD:
        """The first k singular triplets of the approximation of G that the sketch gives (Algorithm 4).

        Args:
            k: number of triplets.
            needed: number of triplets that the method uses; `error` is estimated for those.

        `error` compares the right vectors with those of Z alone, which uses half as much of what is known: on real
        gradients 1 to 10 times the sine of the largest angle to the exact ones.
        """
        Q = torch.linalg.qr(self.Y).Q
        # Least squares by QR: torch.linalg.lstsq's default driver does not repeat its last digits.
        left, upper = torch.linalg.qr(self.Psi @ Q)
        small = tall_svd(torch.linalg.solve_triangular(upper, left.T @ self.Z, upper=True))
        other = tall_svd(self.Z).Vh[:needed]
        own = small.Vh[:needed]
        error = torch.linalg.matrix_norm(own - own @ other.T @ other, ord=2).item()
        return canonical(Q @ small.U[:, :k], small.S[:k], small.Vh[:k], error)


def _columns(
    of: Float[Tensor, "tokens a"], onto: Float[Tensor, "tokens b"], columns: Float[Tensor, "a w"]
) -> Float[Tensor, "b w"]:
    """ontoᵀ (of columns), multiplied in the order in which narrow products are fastest."""
    return ((of @ columns).T @ onto).T
