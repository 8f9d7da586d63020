"""How a model is laid over the processes of a run: whole in each (DDP), or a share of every weight in each (FSDP).

With FSDP a copy of the model's structure trains, whose parameters are sharded; the model itself keeps its modules,
which adapters, probe and scoring know, and is without weights until they are gathered. FSDP2 (Zhao et al. 2023,
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
    """The model is whole in each process; the Trainer shares out the batches.

    Attributes:
        model: what the run knows.
        trained: what the Trainer trains; here the same.
        settings: keywords for TrainingArguments.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.trained = model, model
        self.settings: dict[str, Any] = {}

    @contextmanager
    def whole(self, _trained: nn.Module) -> Iterator[PreTrainedModel]:
        """Inside, the model with the weights as they stand; every process has to enter."""
        yield self.model

    def finish(self) -> None:
        """After training: the model has its weights again."""


class ShardedLayout(Layout):
    """Each process holds a share of every weight, of its gradient and of Adam's moments, a unit for each block."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        modules = cast(nn.Module, model)
        # Until the Trainer shards them, the copy has the model's own parameters: none is held twice.
        self.trained = copy.deepcopy(model, {id(p): p for p in modules.parameters()})
        blocks = sorted({type(m).__name__ for m in modules.modules() if isinstance(m, GradientCheckpointingLayer)})
        self.settings = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": blocks}}

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """The shards are made, and the model need not hold the weights as well."""
        self._release()

    @contextmanager
    def whole(self, _trained: nn.Module) -> Iterator[PreTrainedModel]:
        """As described there; the weights are gathered for as long as that."""
        self.finish()
        try:
            yield self.model
        finally:
            self._release()

    @torch.no_grad()
    def finish(self) -> None:
        """Gives the model the weights, the same to the bit in every process."""
        parameters = dict(cast(nn.Module, self.model).named_parameters())
        for name, shard in cast(nn.Module, self.trained).named_parameters():
            parameters[name].data = gathered(shard)

    def _release(self) -> None:
        for parameter in cast(nn.Module, self.model).parameters():
            parameter.data = parameter.new_empty(0)


def layout(model: PreTrainedModel, how: Literal["ddp", "fsdp"]) -> Layout:
    """Of a model for this run's processes.

    Raises:
        ValueError: its weights cannot be sharded, or there is one process only.
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
    """The whole of a parameter that may be sharded; every process has to ask."""
    return parameter.full_tensor().detach() if isinstance(parameter, DTensor) else parameter.detach()


def reshard(model: nn.Module) -> None:
    """Lets go of weights that FSDP has gathered for a forward pass and keeps for a backward pass that will not come."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def keep_precision(arguments: TrainingArguments) -> None:
    """Autocast alone rounds, as without FSDP: accelerate would have FSDP round weights, gradients and inputs itself."""
    if arguments.fsdp_plugin_args is not None:
        arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy(cast_forward_inputs=False)


def shard_on_cpu(arguments: TrainingArguments) -> bool:
    """Has accelerate shard on CPUs too, where version 1.15 passes over FSDP silently; whether it had to be told."""
    state = AcceleratorState()
    if arguments.fsdp_plugin_args is None or state.distributed_type != DistributedType.MULTI_CPU:
        return False
    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    return True
