"""Settings and result of training."""

from __future__ import annotations

from dataclasses import asdict
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Final, Literal, cast

from pydantic import (
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.dataclasses import dataclass

from bench.runs.record_parts import TrainingFacts
from bench.runs.renamed import as_hashed

Row = dict[str, Any]
AUTO: Final = "auto"  # a learning rate that follows from the curvature at step 0


class DivergedError(RuntimeError):
    """The loss became NaN or infinite at `step`."""

    def __init__(self, loss: float, step: int) -> None:
        super().__init__(f"the loss is {loss} at step {step}; take a lower train.learning_rate")
        self.step = step


def _or_auto(value: Any, number: ValidatorFunctionWrapHandler) -> Any:
    return value if value == AUTO else number(value)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Train:
    """conf/train/*.yaml, explained in conf/README.md; the names are transformers.TrainingArguments' where it has them.

    Attributes:
        learning_rate: peak of the schedule; None only for a method that trains nothing; AUTO until it is known.
        curvature_constant: c in the rate of AUTO, c / λ; None in records from before there was one.
    """

    max_steps: PositiveInt
    batch_size: PositiveInt
    gradient_accumulation_steps: PositiveInt
    learning_rate: Annotated[PositiveFloat | None, WrapValidator(_or_auto)]
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    warmup_steps: NonNegativeInt
    weight_decay: NonNegativeFloat
    adam_beta1: NonNegativeFloat
    adam_beta2: NonNegativeFloat
    adam_epsilon: PositiveFloat
    max_grad_norm: PositiveFloat
    eval_steps: NonNegativeInt
    precision: Literal["fp32", "bf16"]
    parallel: Literal["ddp", "fsdp"] = "ddp"
    curvature_constant: PositiveFloat | None = None

    @property
    def peak(self) -> float:
        """The learning rate; 0 where there is none, or none yet."""
        return 0.0 if self.chooses_rate else self.learning_rate or 0.0

    @property
    def chooses_rate(self) -> bool:
        """Whether the learning rate follows from the curvature."""
        return cast(object, self.learning_rate) == AUTO

    @property
    def short_of_its_steps(self) -> str:
        """What does not happen in max_steps: the end of the warm-up, an eval loss on the way; "" for nothing."""
        warms_up = self.lr_scheduler_type != "constant" and self.warmup_steps >= self.max_steps
        said = []
        if warms_up:
            said.append(f"train.warmup_steps={self.warmup_steps}: the learning rate does not reach its peak")
        if self.eval_steps > self.max_steps:
            said.append(f"train.eval_steps={self.eval_steps}: the eval loss is taken after the last step only")
        return f"in train.max_steps={self.max_steps}, {'; '.join(said)}" if said else ""

    def identity(self) -> dict[str, Any]:
        """The settings that can change a run's numbers."""
        unused = {"parallel"} if self.chooses_rate else {"parallel", "curvature_constant"}
        return as_hashed({key: value for key, value in asdict(self).items() if key not in unused})

    def first_learning_rate(self, examples_a_batch: int | None = None) -> float:
        """The schedule's first value above zero.

        Args:
            examples_a_batch: count the warm-up in batches of this size instead of optimiser steps, as LoRA-SB's
                published code does.
        """
        peak = self.peak
        if self.lr_scheduler_type == "constant" or not self.warmup_steps:
            return peak
        shrink = examples_a_batch / (self.batch_size * self.gradient_accumulation_steps) if examples_a_batch else 1.0
        return min(peak, peak * shrink / self.warmup_steps)


@plain_dataclass(frozen=True)
class Training:
    """The result of training.

    Attributes:
        curve: one row a step: step, loss, learning_rate, grad_norm, tokens, seconds; eval_loss where taken.
        facts: what the record says of training.
        carried_seconds: wall time, measures included, of the earlier attempt that this one resumed.
    """

    curve: list[Row]
    facts: TrainingFacts
    carried_seconds: float = 0.0
