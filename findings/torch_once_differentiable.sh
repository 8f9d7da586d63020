#!/usr/bin/env bash
# Second derivatives, as a Hessian-vector product takes them, through an operation whose backward is marked
#   @once_differentiable, as many fused kernels' are.
# Guess: torch raises when the gradient is differentiated again; the marker exists to say that this cannot be done.
# Seen (torch 2.13.0): torch.autograd.grad(gradient, x) does not visit the operation and takes it for a constant: of
#   w s(x)^2 + x^3 with s(x) = x^2, at x = 3, it gives 6 x = 18 where 12 x^2 + 6 x = 126 is right. No error, no warning.
#   gradient.backward() of the same graph raises; where the operation is alone in its term, s(x) + x^3, neither does,
#   and both give 18 where 2 + 6 x = 20 is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/python" - 2>"$folder/said" <<'PYTHON'
import torch
from torch.autograd.function import once_differentiable


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


def second(function):
    """The second derivative at 3 by torch.autograd.grad, and by backward() or the error that it raises."""
    x, w = torch.tensor(3.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    first = torch.autograd.grad(function(x, w), (x, w), create_graph=True, allow_unused=True)[0]
    (by_grad,) = torch.autograd.grad(first, x, retain_graph=True)
    try:
        first.backward()
    except RuntimeError as error:
        return by_grad.item(), str(error).partition(".")[0]
    return by_grad.item(), x.grad.item()


print(f"torch {torch.__version__.partition('+')[0]}")
inside = second(lambda x, w: w * Square.apply(x) ** 2 + x**3)
alone = second(lambda x, w: Square.apply(x) + x**3)
print(f"w s(x)^2 + x^3, 126 is right: autograd.grad {inside[0]:g}, backward: {inside[1]}")
print(f"s(x) + x^3, 20 is right: autograd.grad {alone[0]:g}, backward: {alone[1]}")
assert inside[0] == 18 and isinstance(inside[1], str), "torch.autograd.grad raises or is right: the behaviour has changed"
assert alone == (18, 18), "the lone term raises or is right: the behaviour has changed"
PYTHON
echo "warnings of derivatives: $(grep -ciE 'differentia|derivative' "$folder/said" || true)"
! grep -iE 'differentia|derivative' "$folder/said"
