#!/usr/bin/env bash
# Gradients of a linear layer's output by Tensor.register_hook, when an in-place activation follows.
# Guess: the hook gets the gradient of the output as it was before the activation, as PyTorch's notes on autograd say of
#   hooks that were registered before a tensor is modified in place; whether the input is 2-D or 3-D is of no account.
# Seen (torch 2.13.0): nn.Linear with bias gives a view for a 3-D input. The in-place operation rebuilds the history of
#   the view, and the hook is never called: no error, no warning, and the gradients of the parameters are right. With a
#   2-D input, without bias, or with the activation out of place, the hook is called.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import warnings

import torch
from torch import nn


def called(shape, bias, inplace):
    torch.manual_seed(0)
    layer, gradients = nn.Linear(6, 5, bias=bias), []
    output = layer(torch.randn(shape))
    output.register_hook(gradients.append)
    nn.functional.relu(output, inplace=inplace).sum().backward()
    return len(gradients), layer.weight.grad


warnings.simplefilter("error")
print(f"torch {torch.__version__.partition('+')[0]}")
for shape in ((8, 6), (2, 4, 6)):
    for bias in (True, False):
        for inplace in (False, True):
            times, gradient = called(shape, bias, inplace)
            print(f"input {shape}, bias {bias}, inplace {inplace}: the hook is called {times} times")
            lost = len(shape) == 3 and bias and inplace
            assert times == (0 if lost else 1), "the behaviour has changed"
            assert torch.equal(gradient, called(shape, bias, not inplace)[1])
PYTHON
