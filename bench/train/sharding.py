"""The layout of a model over the ranks of a run: whole on each (DDP), or a shard of every weight on each (FSDP).

With FSDP a copy of the model's structure trains, whose parameters are sharded; the model itself keeps its modules,
which adapters, probe and scoring know, and has no weights until they are gathered. FSDP2 (Zhao et al. 2023,
arXiv:2304.11277; torch's fully_shard, parameter by parameter), as transformers' Trainer sets it up through accelerate.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from bench.process import ranks


class Layout(TrainerCallback):
    """DDP: every rank holds the whole model; the Trainer shards the batches.

    Attributes:
        model: the model that adapters, probe and scoring refer to.
        trained: the model that the Trainer trains; here the same.
        settings: keywords for TrainingArguments.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.trained = model, model
        self.settings: dict[str, Any] = {}

    @contextmanager
    def whole(self, _trained: nn.Module) -> Iterator[PreTrainedModel]:
        """Context manager: the model with its current weights; every rank must enter it."""
        yield self.model

    def finish(self) -> None:
        """Called after training: gives the model its weights back."""


class ShardedLayout(Layout):
    """FSDP: every rank holds a shard of each weight, its gradient and Adam's moments; each block is one unit."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        modules = cast(nn.Module, model)
        # Until the Trainer shards them, the copy has the model's own parameters: none is held twice.
        self.trained = copy.deepcopy(model, {id(p): p for p in modules.parameters()})
        blocks = sorted({type(m).__name__ for m in modules.modules() if isinstance(m, GradientCheckpointingLayer)})
        self.settings = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": blocks}}

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Frees the model's weights, of which the shards have been made."""
        self._release()

    @contextmanager
    def whole(self, _trained: nn.Module) -> Iterator[PreTrainedModel]:
        """Context manager: gathers the weights into the model, and frees them on leaving."""
        self.finish()
        try:
            yield self.model
        finally:
            self._release()

    @torch.no_grad()
    def finish(self) -> None:
        """Gathers the weights into the model, with the same bits on every rank."""
        parameters = dict(cast(nn.Module, self.model).named_parameters())
        for name, shard in cast(nn.Module, self.trained).named_parameters():
            parameters[name].data = gathered(shard)

    def _release(self) -> None:
        for parameter in cast(nn.Module, self.model).parameters():
            parameter.data = parameter.new_empty(0)


def layout(model: PreTrainedModel, how: Literal["ddp", "fsdp"]) -> Layout:
    """The layout of a model by the setting `train.parallel`.

    Raises:
        ValueError: FSDP, and the weights are quantised or there is one process only.
    """
    if how == "ddp":
        return Layout(model)
    if ranks.size() == 1:
        raise ValueError(
            "train.parallel=fsdp shares the weights of a model among processes: start several with torchrun"
        )
    if odd := sorted({str(p.dtype) for p in cast(nn.Module, model).parameters() if not p.is_floating_point()}):
        raise ValueError(
            f"train.parallel=fsdp cannot shard quantised weights ({', '.join(odd)}); take train.parallel=ddp"
        )
    return ShardedLayout(model)


def gathered(parameter: Tensor) -> Tensor:
    """A parameter, gathered if it is sharded; every rank must call it."""
    return parameter.full_tensor().detach() if isinstance(parameter, DTensor) else parameter.detach()


def reshard(model: nn.Module) -> None:
    """Frees weights that FSDP gathered for a forward pass, when no backward pass follows."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def keep_precision(arguments: TrainingArguments) -> None:
    """Keeps FSDP from rounding weights, gradients and inputs itself, as accelerate asks: autocast alone rounds."""
    if arguments.fsdp_plugin_args is not None:
        arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy(cast_forward_inputs=False)


def shard_on_cpu(arguments: TrainingArguments) -> bool:
    """Makes accelerate shard on CPUs, where version 1.15 ignores FSDP silently; returns whether it was needed."""
    state = AcceleratorState()
    if arguments.fsdp_plugin_args is None or state.distributed_type != DistributedType.MULTI_CPU:
        return False
    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    return True
