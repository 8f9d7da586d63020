"""What every method shares: the base class `Method`, the layer it sees, the factors it returns, its scaling rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import ConfigDict, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass as config_dataclass
from torch import Tensor

from bench.methods.svd import SVD, exact_svd

# A method's fields come from YAML: an unknown one or one of the wrong type is refused.
STRICT = ConfigDict(extra="forbid", strict=False)

ScalingRule = Literal["alpha_over_r", "alpha_over_sqrt_r", "one"]
Statistic = Literal[
    "gradient", "input_covariance", "label_covariance", "token_covariance", "output_covariance", "output_fisher",
    "block_dimensions",
]  # fmt: skip
Spectral = Literal["weight", "gradient", "gradient_sign"]  # what may be seen through its leading singular triplets
GradientMode = Literal["exact", "sketch"]
Trainable = Literal["lora_A", "lora_B", "lora_R", "lora_E", "lora_o", "weight"]
FACTORS = ("lora_A", "lora_B", "lora_R", "lora_E", "lora_o")


@config_dataclass(frozen=True, config=STRICT)
class Rank:
    """conf/rank/*.yaml: the budget of an adapter; the method's `scaling` turns lora_alpha into s."""

    name: str
    r: PositiveInt
    lora_alpha: PositiveFloat


@config_dataclass(frozen=True, config=STRICT)
class AdapterOptions:
    """The `adapter` key, for every method that trains A or B; conf/config.yaml states its values.

    Attributes:
        use_dora: trains direction and row norms of W apart (DoRA, Liu et al. 2024, arXiv:2402.09353).
        loraplus_lr_ratio: learning rate of B over that of A (LoRA+, Hayou et al. 2024, arXiv:2402.12354); None: equal.
        scaling: one rule for s in all methods that train A or B, through conf/method; None: each its paper's.
    """

    use_dora: bool
    loraplus_lr_ratio: PositiveFloat | None
    scaling: ScalingRule | None = None  # records from before this key existed lack it

    def identity(self) -> dict[str, object]:
        """The options that can change numbers; the rule for s is part of the method's identity, as its `scaling`."""
        return {"use_dora": self.use_dora, "loraplus_lr_ratio": self.loraplus_lr_ratio}


PLAIN = AdapterOptions(use_dora=False, loraplus_lr_ratio=None)


@dataclass(frozen=True)
class LearningRates:
    """The learning rates of the coming schedule, for methods that build in a first step.

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
        gradient: mean loss gradient in W over the calibration batches.
        input_covariance: mean over the calibration sequences of Xᵀ X, each X (tokens, in) divided by the magnitude
            of its largest entry.
        label_covariance: covariance of the inputs at label tokens.
        token_covariance: mean over the calibration tokens of x xᵀ, padding left out.
        output_covariance: as input_covariance, of the outputs, biases included.
        output_fisher: mean over the calibration tokens of the squared gradient in the output, of each sample's own mean
            loss.
        block_dimensions: intrinsic dimensions of the calibration samples' hidden states before and after the block
            that the layer is in; zeros outside blocks.
        learning_rates: those of the coming schedule.
        svds: leading singular triplets of the matrices that the method decomposes.

    A statistic is None unless the method requires it; a gradient that the method decomposes is None, too.
    """

    name: str
    weight: Float[Tensor, "out in"]
    r: int
    scaling: float
    gradient: Float[Tensor, "out in"] | None = None
    input_covariance: Float[Tensor, "in in"] | None = None
    label_covariance: Float[Tensor, "in in"] | None = None
    token_covariance: Float[Tensor, "in in"] | None = None
    output_covariance: Float[Tensor, "out out"] | None = None
    output_fisher: Float[Tensor, "out"] | None = None
    block_dimensions: Float[Tensor, "2"] | None = None
    learning_rates: LearningRates = LearningRates(0.0, 0.0, 0.0)
    svds: Mapping[Spectral, SVD] = field(default_factory=dict)

    def leading(self, matrix: Spectral, k: int) -> SVD:
        """The k leading singular triplets: calibration's if it decomposed the matrix, else exact ones.

        Raises:
            ValueError: calibration kept fewer than k, or the layer has neither the triplets nor the matrix.
        """
        if matrix in self.svds:
            return self.svds[matrix].leading(k)
        if matrix == "weight":
            return exact_svd(self.weight).leading(k)
        gradient = required(self, "gradient")
        return exact_svd(gradient if matrix == "gradient" else gradient.sign()).leading(k)


@dataclass(frozen=True)
class Factors:
    """Starting factors of an adapter, float32: of `W x + s diag(o) B M A x`, M being R, diag(E) or, without both, 1.

    lora_R is a method's, lora_E a method's or a system's (bench.systems); at most one of them is given. Without lora_o,
    which comes with lora_E, o is 1.
    """

    lora_A: Float[Tensor, "r in"]
    lora_B: Float[Tensor, "out r"]
    lora_R: Float[Tensor, "r r"] | None = None
    lora_E: Float[Tensor, "r"] | None = None
    lora_o: Float[Tensor, "out"] | None = None

    def product(self) -> Float[Tensor, "out in"]:
        """diag(o) B M A, without the scaling."""
        return self.left() @ self.right()

    def to(self, device: torch.device) -> Factors:
        """The factors on a device, float32 and contiguous: in another memory layout sums end in other bits."""
        parts = {part: value for part in FACTORS if (value := getattr(self, part)) is not None}
        return Factors(**{part: value.to(device, torch.float32).contiguous() for part, value in parts.items()})

    def vanishes(self, product: Float[Tensor, "out in"] | None = None) -> bool:
        """Whether diag(o) B M A is zero up to rounding; a caller that has computed the product passes it."""
        rounding = torch.finfo(self.lora_A.dtype).eps * self.left().norm() * self.right().norm()
        return bool((self.product() if product is None else product).norm() <= 4 * rounding)

    def left(self) -> Float[Tensor, "out r"]:
        """B or diag(o) B: the left factor of the product."""
        return self.lora_B if self.lora_o is None else self.lora_o[:, None] * self.lora_B

    def right(self) -> Float[Tensor, "r in"]:
        """A, R A or diag(E) A: the right factor of the product."""
        if self.lora_E is not None:
            return self.lora_E[:, None] * self.lora_A
        return self.lora_A if self.lora_R is None else self.lora_R @ self.lora_A


class Method:
    """A way to start fine-tuning, and everything that the suite asks of one.

    A subclass is a frozen pydantic dataclass, `@dataclass(frozen=True, config=STRICT)`. Its fields are its settings,
    and conf/method/NAME.yaml states their values. It states label and keeps_function, and overrides what is below
    if the default does not suit it.

    Attributes:
        label: what the paper prints.
        trains: the tensors that the optimiser moves: of an adapter, by default A and B, or the whole model's weights.
        keeps_function: whether the adapted model must equal the pretrained one at step 0. True: the base weight
            becomes W - s B A, and the logits are checked. False: W is left as it is.
        requires: the statistics of each layer that calibration computes from data.
        decomposes: matrices seen by `layer.leading` only. Calibration then keeps their leading singular triplets
            instead of them, computed once for every rank that `svd.rank` covers, by the solver that the `svd` key
            names. A property where it depends on the settings.
        reads_learning_rates: whether ranks or factors depend on `layer.learning_rates`. With train.learning_rate=auto
            such a method starts twice: from rates of zero, and again when the rate is known.
        scaling: the rule for s; a field of every method that has an adapter.
    """

    label: ClassVar[str]
    trains: ClassVar[frozenset[Trainable]] = frozenset({"lora_A", "lora_B"})
    keeps_function: ClassVar[bool]
    requires: ClassVar[frozenset[Statistic]] = frozenset()
    reads_learning_rates: ClassVar[bool] = False
    scaling: ScalingRule

    @property
    def has_adapter(self) -> bool:
        """Whether factors are added to the target layers; full fine-tuning has none."""
        return not self.trains.isdisjoint(FACTORS)

    def factors(self, layer: Layer, generator: torch.Generator) -> Factors:
        """The starting factors of one layer; every method with an adapter defines it.

        Args:
            layer: the layer with the statistics and triplets that the method asked for.
            generator: the only source of randomness, seeded by the run for this layer.
        """
        raise NotImplementedError(f"{type(self).__name__} has an adapter, but no factors")

    @property
    def decomposes(self) -> frozenset[Spectral]:
        """Hook: see above; none by default."""
        return frozenset()

    def num_singular(self, r: int) -> int:
        """Hook: how many singular triplets an adapter of rank r takes of a matrix in `decomposes`."""
        return r

    @property
    def sketches(self) -> bool:
        """Hook: whether the triplets of the gradient come from a sketch; the gradient itself is then never formed.

        By default where the setting `gradient` says so, which a method has that uses only the gradient's own triplets.
        """
        return getattr(self, "gradient", "exact") == "sketch"

    def check(self, layer: Layer) -> None:
        """Hook: refuses a rank that the layer cannot have; called for each layer before any data is read.

        Args:
            layer: name, r, scaling, learning rates, and a weight with a shape but no values (on the meta device).

        Raises:
            ValueError: the layer cannot have this rank; the message names both and the remedy.
        """

    def ranks(self, layers: Iterable[Layer]) -> dict[str, int] | None:
        """Hook: the rank of each layer by name, 0 for no adapter; None gives every layer `layer.r`.

        Args:
            layers: all target layers with their statistics, one at a time; `layer.r` is the budget per layer.
        """
        return None


def scaling_value(rule: ScalingRule, rank: Rank) -> float:
    """s of `W + s B A`: α/r (Hu et al. 2021), α/√r (rsLoRA, Kalajdzievski 2023), or 1."""
    if rule == "alpha_over_r":
        return rank.lora_alpha / rank.r
    if rule == "alpha_over_sqrt_r":
        return rank.lora_alpha / rank.r**0.5
    return 1.0


def required(layer: Layer, statistic: Statistic) -> Tensor:
    """A statistic of the layer that the method's `requires` names.

    Raises:
        ValueError: it does not, so that calibration has not computed it.
    """
    value = getattr(layer, statistic)
    if value is None:
        raise ValueError(
            f"{layer.name} has no {statistic}: name it in the method's `requires`, so that calibration computes it"
        )
    return value


def check_two_blocks(label: str, layer: Layer) -> None:
    """Refuses a rank if a layer has fewer than the 2r singular vectors that a method uses.

    Raises:
        ValueError: 2r exceeds the layer's smaller side.
    """
    smaller = min(layer.weight.shape)
    if 2 * layer.r > smaller:
        raise ValueError(
            f"{label} uses 2r = {2 * layer.r} singular vectors, but {layer.name} has a side of {smaller}; "
            f"take r of at most {smaller // 2}"
        )
