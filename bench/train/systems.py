"""A system in training: the Trainer's callback that hands a step's matrices to bench.systems, and writes them back.

Gradients are mapped after clipping, so that norms of all systems are compared with the same train.max_grad_norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bench.methods.base import FACTORS, Factors
from bench.model.adapter import PLAIN_DTYPES, AdaptedLayer, shift
from bench.process import ranks
from bench.systems.base import Clock, Pair, State, System
from bench.systems.none import NoSystem

STATE = "system.safetensors"  # in a checkpoint's folder


class SystemHooks(TrainerCallback):
    """Carries one system through one training.

    Attributes:
        system: what is carried.
        state: what it remembers; part of every checkpoint.
        penalty: its value at the last step; None without one.

    Args:
        system: of the run.
        layers: the target layers.
        seed: the run's.
        initial: by layer, the factors B0 and A0 of a base weight W - s B0 A0; kept up to date where it moves.

    Raises:
        ValueError: the system writes base weights, and one is quantised.
    """

    def __init__(self, system: System, layers: Sequence[AdaptedLayer], seed: int, initial: dict[str, Factors]) -> None:
        self.system, self.state = system, State()
        self.penalty: float | None = None
        self._layers = [] if isinstance(system, NoSystem) else [layer for layer in layers if layer.trains]
        self._seed, self._initial = seed, initial
        writes = system.adds_noise or system.moves_base
        for layer in self._layers if writes else ():
            if layer.weight.dtype not in PLAIN_DTYPES:
                raise ValueError(
                    f"{layer.name} is quantised ({layer.weight.dtype}), and {system.label} writes its weight; load the "
                    "model in float32 or bfloat16, or take system=none"
                )
        self._pretrained = {layer.name: layer.weight.detach().clone() for layer in self._layers if system.moves_base}
        self._clean: list[tuple[torch.nn.Parameter, Tensor]] = []  # weights whose places noisy ones have taken

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Adds the step's noise to the weights, in all of its passes."""
        clock = self._clock(state, kwargs)
        for layer in self._layers if self.system.adds_noise else ():
            noise = self.system.noise(layer.effective_weight(), layer.name, clock)
            if noise is not None:
                weight = layer.weight
                self._clean.append((weight, weight.data))
                weight.data = (weight.data.float() + noise).to(weight.dtype)

    def add_penalty(self) -> None:
        """Adds the penalty's gradient to those of the whole batch, which are not clipped yet."""
        pairs = [self._pair(layer, gradients=False) for layer in self._layers]
        penalty = self.system.penalty(pairs) if pairs else None
        if penalty is None:
            return
        tensors = [tensor for pair in pairs for tensor in pair.tensors.values() if tensor.requires_grad]
        found = torch.autograd.grad(penalty, tensors, allow_unused=True)
        for tensor, gradient in zip(tensors, found, strict=True):
            if gradient is not None:
                tensor.grad = gradient if tensor.grad is None else tensor.grad + gradient
        self.penalty = penalty.item()

    @torch.no_grad()
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After clipping: takes the noise out, maps the gradients, and makes the steps that are not AdamW's."""
        self.restore_weights()
        clock = self._clock(state, kwargs)
        decay = {id(p): group["weight_decay"] for group in kwargs["optimizer"].param_groups for p in group["params"]}
        active = set(self.system.active([layer.name for layer in self._layers], clock))
        for layer in self._layers:
            pair = self._pair(layer)
            if layer.name not in active:
                for tensor in pair.tensors.values():
                    tensor.grad = None
                continue
            if not pair.gradients:  # an expert that no token was sent to
                continue
            mapped = replace(pair, gradients=self.system.gradients(pair)) if self.system.maps_gradients else pair
            directions = self.system.descent(mapped, self.state, clock)
            for part, gradient in mapped.gradients.items():
                tensor = pair.tensors[part]
                if directions is None:
                    tensor.grad = gradient
                else:
                    tensor.sub_(clock.learning_rate * (directions[part] + decay[id(tensor)] * tensor))
                    tensor.grad = None  # so that AdamW leaves it alone

    @torch.no_grad()
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the optimiser, whose gradients are still there."""
        if not self._layers:
            return
        pairs, clock = [self._pair(layer) for layer in self._layers], self._clock(state, kwargs)
        self.system.after_step(pairs, self.state, clock)
        if self.system.restarts(clock):
            moments = kwargs["optimizer"].optimizer.state
            for tensor in (tensor for pair in pairs for tensor in pair.tensors.values()):
                moments.pop(tensor, None)
            self._move_base()

    def restore_weights(self) -> None:
        """Puts the weights without noise back, the same tensors that were there."""
        for weight, clean in self._clean:
            weight.data = clean
        self._clean.clear()

    def save(self, folder: Path) -> None:
        """Writes the state into a checkpoint, if there is any; rank 0 writes."""
        if self.state and ranks.rank() == 0:
            save_file({name: tensor.cpu().contiguous() for name, tensor in self.state.items()}, folder / STATE)

    def load(self, folder: Path) -> None:
        """Puts back what `save` wrote."""
        if (folder / STATE).is_file():
            device = self._layers[0].weight.device
            self.state.update({name: tensor.to(device) for name, tensor in load_file(folder / STATE).items()})
            self._move_base()

    def _move_base(self) -> None:
        for layer in self._layers:
            if (found := self.system.moved_by(layer.name, self.state)) is not None:
                self._initial[layer.name] = found
                shift(layer, found, self._pretrained[layer.name])

    def _pair(self, layer: AdaptedLayer, gradients: bool = True) -> Pair:
        tensors: dict[str, Tensor] = {part: p for part, p in layer.parameters().items() if part in FACTORS}
        tensors = tensors or {"weight": layer.weight}
        found = {part: t.grad for part, t in tensors.items() if gradients and t.grad is not None}
        return Pair(layer.name, tensors, found, layer.scaling)

    def _clock(self, state: TrainerState, kwargs: dict[str, Any]) -> Clock:
        return Clock(state.global_step + 1, state.max_steps, kwargs["optimizer"].param_groups[0]["lr"], self._seed)
