"""What every method shares: the layer it sees, the factors it returns, its scaling rules, its singular vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import ConfigDict, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor

# A method's fields come from YAML: an unknown one or one of the wrong type is refused.
STRICT = ConfigDict(extra="forbid", strict=False)

ScalingRule = Literal["alpha_over_r", "alpha_over_sqrt_r", "one"]
Statistic = Literal["gradient", "input_covariance"]
Trainable = Literal["lora_A", "lora_B", "lora_R", "weight"]


@config_dataclass(frozen=True, config=STRICT)
class Rank:
    """conf/rank/*.yaml, the budget of an adapter; the rule that turns it into a scaling belongs to the method."""

    name: str
    r: PositiveInt
    lora_alpha: PositiveFloat


@dataclass(frozen=True)
class LearningRates:
    """The learning rates of the coming schedule that a method may look at.

    Attributes:
        peak: the schedule's highest value.
        first: its first value above zero; a linear warm-up starts at 0.
        calibration: the first value of the same warm-up counted in calibration batches.
    """

    peak: float
    first: float
    calibration: float


@dataclass(frozen=True)
class Layer:
    """One linear layer `y = W x`, as a method sees it.

    Attributes:
        name: its path in the model.
        weight: the pretrained W, float32.
        r: the adapter's rank.
        scaling: s in `W + s B A`.
        gradient: mean loss gradient in W over the calibration batches; None unless the method requires it.
        input_covariance: mean of x xᵀ over the calibration tokens; None unless the method requires it.
        learning_rates: of the coming schedule.
    """

    name: str
    weight: Float[Tensor, "out in"]
    r: int
    scaling: float
    gradient: Float[Tensor, "out in"] | None = None
    input_covariance: Float[Tensor, "in in"] | None = None
    learning_rates: LearningRates = LearningRates(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Factors:
    """What an adapter starts from: `W x + s B A x`, or `W x + s B R A x` where lora_R is given; float32."""

    lora_A: Float[Tensor, "r in"]
    lora_B: Float[Tensor, "out r"]
    lora_R: Float[Tensor, "r r"] | None = None

    def product(self) -> Float[Tensor, "out in"]:
        """B A or B R A, without the scaling."""
        return self.lora_B @ self.right()

    def right(self) -> Float[Tensor, "r in"]:
        """A or R A: what B is multiplied with."""
        return self.lora_A if self.lora_R is None else self.lora_R @ self.lora_A


@runtime_checkable
class Method(Protocol):
    """A way to start fine-tuning.

    label: what the paper prints. requires: the statistics calibration must deliver. trains: what the optimiser
    moves. keeps_function: whether the adapted model must equal the pretrained one at step 0.
    """

    label: ClassVar[str]
    requires: ClassVar[frozenset[Statistic]]
    trains: ClassVar[frozenset[Trainable]]
    keeps_function: ClassVar[bool]


@runtime_checkable
class AdapterMethod(Method, Protocol):
    """A method that adds factors to every target layer."""

    scaling: ScalingRule

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """The starting factors of one layer; draws from `generator` only."""
        ...


def scaling_value(rule: ScalingRule, rank: Rank) -> float:
    """s of `W + s B A`: α/r (Hu et al. 2021), α/√r (rsLoRA, Kalajdzievski 2023), or 1."""
    if rule == "alpha_over_r":
        return rank.lora_alpha / rank.r
    if rule == "alpha_over_sqrt_r":
        return rank.lora_alpha / rank.r**0.5
    return 1.0


def signed_svd(
    matrix: Float[Tensor, "out in"],
) -> tuple[Float[Tensor, "out k"], Float[Tensor, "k"], Float[Tensor, "k in"]]:
    """Exact thin SVD with canonical signs: the entry of largest magnitude in each left vector is positive.

    LAPACK's signs are arbitrary, and LoRA-GA pairs left and right vectors of different indices, so its product
    depends on them.
    """
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    largest = U.gather(0, U.abs().argmax(dim=0, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(U.dtype)
    return U * signs, S, Vh * signs.T


def required_gradient(layer: Layer) -> Float[Tensor, "out in"]:
    """The layer's gradient; a method that requires one is never called without it."""
    assert layer.gradient is not None, f"{layer.name}: calibration delivered no gradient"
    return layer.gradient
