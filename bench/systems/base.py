"""What every system shares: the base class `System`, what it is combined with, and what it sees of a step.

A method says where the factors start, a system what training does with them: the form of the adapter, the gradient, the
step, a penalty, noise. Its functions are of matrices; bench.train.systems owns every hook that calls them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bench.methods.base import AdapterOptions, Factors, Layer, Method, Rank
from bench.process import rng

ROUNDING = 1e-6  # of the distance of a factor from orthonormality, times the root of r
PAIR = frozenset({"lora_A", "lora_B"})
State = dict[str, Tensor]  # "layer/part" -> float32, all that a system remembers from one step to the next
Tensors = Mapping[str, Tensor]  # by part: lora_A (r, in), lora_B (out, r), lora_E (r,), or weight (out, in)


@dataclass(frozen=True)
class Host:
    """The cell that a system is put into.

    Attributes:
        name: of the method, as the command line gives it.
        method: says which tensors train.
        rank: as given; not what `System.rank` makes of it.
        options: DoRA and LoRA+.
        max_steps: of training.
        dtype: of the frozen weights' products: "float32", "bfloat16", ...
    """

    name: str
    method: Method
    rank: Rank
    options: AdapterOptions
    max_steps: int
    dtype: str


@dataclass(frozen=True)
class Clock:
    """Where training is.

    Attributes:
        step: the step that is being made, from 1.
        max_steps: of the whole training.
        learning_rate: of this step.
        seed: the run's; `stream` draws from it.
    """

    step: int
    max_steps: int
    learning_rate: float
    seed: int

    def stream(self, what: str, device: torch.device) -> torch.Generator:
        """A generator of its own for what is drawn, whose name says when: nothing random has to be saved to resume."""
        return torch.Generator(device).manual_seed(rng.derive(self.seed, f"system/{what}"))


@dataclass(frozen=True)
class Pair:
    """One target layer in training.

    Attributes:
        name: path of the layer in the pretrained model.
        tensors: its factors, frozen ones included, or the weight where that is trained; float32.
        gradients: those of the trained tensors that have one, after clipping.
        scaling: s in `W + s B A`.
    """

    name: str
    tensors: Tensors
    gradients: Tensors
    scaling: float


class System:
    """What a paper changes beside the start, and everything that the suite asks of it.

    A subclass is a frozen pydantic dataclass, `@dataclass(frozen=True, config=STRICT)`. Its fields are its settings,
    and conf/system/NAME.yaml states their values. It states label, and overrides what is below where the default,
    which changes nothing, is not what the paper does.

    Attributes:
        label: what the paper prints.
        gated: whether the adapter is `s B diag(E) A`, with E (r,) from `start`, instead of `s B A`.
        own_start: whether `start` takes the place of the method's factors; the row is then called by the system alone.
        keeps_function: whether what it does to a start leaves the model's function at step 0 as it was.
        maps_gradients: whether `gradients` changes anything, of A and B or of B alone.
        adds_noise: whether `noise` is asked for.
        has_kernel: whether `kernel` computes a layer's products in training.
        only_targets: whether, of full weights, those of the target layers train alone.
        moves_base: whether base weights change in training; a copy of the first ones is kept then.
        shards: whether it can train with train.parallel=fsdp.
        undecayed: tensors without weight decay.
    """

    label: ClassVar[str]
    gated: ClassVar[bool] = False
    own_start: ClassVar[bool] = False
    keeps_function: ClassVar[bool] = True
    maps_gradients: ClassVar[bool] = False
    adds_noise: ClassVar[bool] = False
    has_kernel: ClassVar[bool] = False
    only_targets: ClassVar[bool] = False
    moves_base: ClassVar[bool] = False
    shards: ClassVar[bool] = False
    undecayed: ClassVar[frozenset[str]] = frozenset()

    def title(self, method: Method) -> str:
        """What tables call a method's rows with this system."""
        return self.label if self.own_start else f"{method.label} + {self.label}"

    def check(self, host: Host) -> None:
        """Hook: refuses what the system cannot be combined with; called before any data is read.

        Raises:
            ValueError: the message names both sides, why, and the remedy.
        """

    @property
    def num_copies(self) -> int:
        """Hook: how many tensors of each target weight's shape are kept in training, beside the weight itself."""
        return int(self.adds_noise or self.moves_base)

    def check_layer(self, layer: Layer) -> None:
        """Hook: refuses what a layer cannot carry; called for each layer before any data is read.

        Args:
            layer: name, r, scaling, and a weight with a shape but no values (on the meta device).

        Raises:
            ValueError: the message names the layer, the value, the limit and the remedy.
        """

    def trains(self, method: Method) -> frozenset[str]:
        """Hook: the tensors that the optimiser moves."""
        return method.trains | ({"lora_E"} if self.gated else frozenset())

    def rank(self, rank: Rank) -> Rank:
        """Hook: rank and alpha with which adapters are added, where they are not those of the budget."""
        return rank

    def start(self, layer: Layer, factors: Factors, generator: torch.Generator) -> Factors:
        """Hook: the method's factors with lora_E, where the system is gated, or its own factors.

        Args:
            layer: as the method sees it.
            factors: the method's.
            generator: the only source of randomness, seeded by the run for this layer.
        """
        return factors

    def taken_out(self, layer: Layer) -> Factors | None:
        """Hook: factors B0 and A0 for a base weight W - s B0 A0 that others than they train on; None: of `start`.

        Args:
            layer: as the method sees it.
        """
        return None

    def gradients(self, pair: Pair) -> Tensors:
        """Hook: what takes the place of the gradients of a pair; linear in them, and a function of nothing else."""
        return pair.gradients

    def induced(
        self,
        G: Float[Tensor, "out in"],
        factors: Factors | None,
        scaling: float,
        trains: frozenset[str],
        mean_input: Float[Tensor, "in"] | None = None,
    ) -> Float[Tensor, "out in"] | None:
        """Hook: g̃, how gradient descent moves W; None: as the adapter's form alone has it (bench.train.alignment).

        By default what the factors' gradients, mapped, move W by: s (dB A + B dA).

        Args:
            G: dL/dW.
            factors: the current ones; None without an adapter.
            scaling: s.
            trains: names of the tensors that the optimiser moves.
            mean_input: of the layer, over all tokens of the batch that gave G.
        """
        if not self.maps_gradients or factors is None:
            return None
        A, B = factors.lora_A, factors.lora_B
        found = {"lora_A": scaling * B.T @ G, "lora_B": scaling * G @ A.T}
        tensors = {"lora_A": A, "lora_B": B}
        mapped = self.gradients(Pair("", tensors, {part: found[part] for part in trains}, scaling))
        return scaling * (mapped["lora_B"] @ A + (B @ mapped["lora_A"] if "lora_A" in mapped else 0))

    def descent(self, pair: Pair, state: State, clock: Clock) -> Tensors | None:
        """Hook: the directions along which the trained tensors step, θ ← θ - lr (d + weight_decay θ); None: AdamW's.

        Args:
            pair: with the gradients that `gradients` has made.
            state: to be read and written under "layer/part".
            clock: of the step.
        """
        return None

    def kernel(
        self,
        x: Float[Tensor, "*tokens in"],
        W: Float[Tensor, "out in"],
        A: Float[Tensor, "r in"],
        B: Float[Tensor, "out r"],
        scaling: float,
    ) -> Float[Tensor, "*tokens out"]:
        """Hook: W x + s B A x of every token, differentiable in x, A and B; of a system with `has_kernel`."""
        raise NotImplementedError(f"{type(self).__name__} has a kernel, but no function of it")

    def penalty(self, pairs: Sequence[Pair]) -> Float[Tensor, ""] | None:
        """Hook: what is added to the loss, for its gradient only; differentiable in `pair.tensors`, without gradients.

        The logged loss stays the task's; the curve has the penalty beside it.
        """
        return None

    def noise(self, weight: Float[Tensor, "out in"], layer: str, clock: Clock) -> Float[Tensor, "out in"] | None:
        """Hook: what is added to the frozen weight in the passes of one step; None: nothing.

        Args:
            weight: the layer's effective weight, float32.
            layer: its name.
            clock: of the step.
        """
        return None

    def active(self, names: Sequence[str], clock: Clock) -> Collection[str]:
        """Hook: which of the layers take part in this step; the optimiser leaves the others alone."""
        return names

    def after_step(self, pairs: Sequence[Pair], state: State, clock: Clock) -> None:
        """Hook: changes tensors in place after the optimiser's step, whose gradients the pairs still have."""

    def restarts(self, clock: Clock) -> bool:
        """Hook: whether the optimiser forgets its moments after this step."""
        return False

    def moved_by(self, layer: str, state: State) -> Factors | None:
        """Hook: of a system with `moves_base`, factors B0 and A0 for a base weight W - s B0 A0; None: W itself.

        Asked after each step that `restarts`, and when training resumes.
        """
        return None


def needs_pair(label: str, host: Host) -> None:
    """Refuses a method that does not train both lora_A and lora_B, and nothing else.

    Raises:
        ValueError: it does not.
    """
    if host.method.trains != PAIR:
        raise ValueError(
            f"{label} needs a method that trains lora_A and lora_B, and method={host.name} trains "
            f"{', '.join(sorted(host.method.trains)) or 'nothing'}; take another, such as method=hu, or system=none"
        )


def needs_method(label: str, host: Host, names: Sequence[str], why: str) -> None:
    """Refuses every method but those named.

    Raises:
        ValueError: it is none of them.
    """
    if host.name not in names:
        raise ValueError(
            f"{label} does not combine with method={host.name}: {why}; take method={' or '.join(names)}, or system=none"
        )


def refuses_dora(label: str, host: Host, why: str) -> None:
    """Refuses DoRA.

    Raises:
        ValueError: it is on.
    """
    if host.options.use_dora:
        raise ValueError(
            f"{label} does not combine with adapter.use_dora=true: {why}; take adapter.use_dora=false, or system=none"
        )


def refuses_loraplus(label: str, host: Host, why: str) -> None:
    """Refuses LoRA+.

    Raises:
        ValueError: it is on.
    """
    ratio = host.options.loraplus_lr_ratio
    if ratio is not None:
        raise ValueError(
            f"{label} does not combine with adapter.loraplus_lr_ratio={ratio:g}: {why}; take "
            "adapter.loraplus_lr_ratio=null, or system=none"
        )


def distance_from_orthonormal(rows: Float[Tensor, "r side"]) -> Float[Tensor, ""]:
    """‖X Xᵀ - I‖_F; without a gradient where it is rounding."""
    distance = (rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)).norm()
    return torch.where(distance > ROUNDING * len(rows) ** 0.5, distance, distance.detach())
