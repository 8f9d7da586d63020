"""What calibration is asked for, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from jaxtyping import Float
from torch import Tensor

from bench.methods.base import Layer, LearningRates, Method, Rank, Spectral, Statistic
from bench.methods.svd import EXACT, SVD, SVDSettings
from bench.runs.record_parts import CalibrationFacts

PARTS = ("U", "S", "Vh")
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
FROM_GRADIENTS: frozenset[Statistic] = frozenset({"gradient", "output_fisher"})


@dataclass(frozen=True)
class CalibrationRequest:
    """What calibration is to return for each target layer.

    Attributes:
        matrices: statistics returned in full.
        svds: matrices of which only the leading singular triplets are returned.
        sketched: whether the triplets of the gradient come from a sketch.
        num_singular: number of triplets that the method uses; `svd.rank` may ask for more.
        svd: the solver of those triplets, and its accuracy.
    """

    matrices: frozenset[Statistic] = frozenset()
    svds: frozenset[Spectral] = frozenset()
    sketched: bool = False
    num_singular: int = 1
    svd: SVDSettings = EXACT

    @classmethod
    def of(cls, method: Method, rank: Rank, svd: SVDSettings) -> CalibrationRequest:
        """What a method needs at a rank: a gradient that it decomposes is not returned in full."""
        if not method.has_adapter:
            return cls()
        if not method.decomposes:
            return cls(matrices=method.requires)
        matrices = method.requires - {"gradient"} if method.decomposes - {"weight"} else method.requires
        return cls(matrices, method.decomposes, method.sketches, method.num_singular(rank.r), svd)

    @property
    def gradient(self) -> bool:
        """Whether a backward pass is needed."""
        return bool(self.matrices & FROM_GRADIENTS) or bool(self.svds - {"weight"})

    @property
    def data(self) -> bool:
        """Whether any data is needed."""
        return self.gradient or bool(self.matrices)

    @property
    def title(self) -> str:
        """The request in words, as `python -m bench.cache` lists it."""
        width = max(self.svd.rank, self.num_singular)
        parts = [kind.replace("_", " ") for kind in sorted(self.matrices)]
        sketched = "a sketch of the " if self.sketched else ""
        return " and ".join(parts + [f"{width} triplets of {sketched}{of}" for of in sorted(self.svds)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the cache's key: equal for two requests that get the same numbers."""
        width = max(self.svd.rank, self.num_singular) if self.svds else None
        return {
            "matrices": sorted(self.matrices),
            "svds": sorted(self.svds),
            "sketched": self.sketched and self.num_singular,  # its error is estimated for the triplets that are used
            "svd": self.svd.identity(self.sketched) | {"rank": width} if self.svds else None,
        }


@dataclass
class Calibration:
    """Statistics by target layer, as bench.methods.base.Layer describes them; on the CPU, float32.

    Attributes:
        svds: leading singular triplets by matrix and layer.
        facts: what the record says of calibration.
    """

    gradient: dict[str, Float[Tensor, "out in"]] = field(default_factory=dict)
    input_covariance: dict[str, Float[Tensor, "in in"]] = field(default_factory=dict)
    label_covariance: dict[str, Float[Tensor, "in in"]] = field(default_factory=dict)
    token_covariance: dict[str, Float[Tensor, "in in"]] = field(default_factory=dict)
    output_covariance: dict[str, Float[Tensor, "out out"]] = field(default_factory=dict)
    output_fisher: dict[str, Float[Tensor, "out"]] = field(default_factory=dict)
    block_dimensions: dict[str, Float[Tensor, "2"]] = field(default_factory=dict)
    svds: dict[Spectral, dict[str, SVD]] = field(default_factory=dict)
    facts: CalibrationFacts = field(default_factory=CalibrationFacts)

    def recorded(self, read: bool) -> CalibrationFacts:
        """The facts with what follows from all the parts; `read`: the calibration was read from the cache."""
        errors = [svd.error for by_name in self.svds.values() for svd in by_name.values()]
        total = sum(self.facts.seconds.values())
        known = {"read": read, "largest_error": max(errors, default=None), "total_seconds": total}
        return CalibrationFacts(**{name: getattr(self.facts, name) for name in CalibrationFacts.model_fields} | known)

    def layer(
        self, name: str, weight: Float[Tensor, "out in"], r: int, scaling: float, learning_rates: LearningRates
    ) -> Layer:
        """A layer as a method sees it, with its statistics on the weight's device.

        Args:
            name: its path in the model.
            weight: the pretrained W, float32.
            r: the adapter's rank.
            scaling: s in `W + s B A`.
            learning_rates: those of the coming schedule.
        """
        found = {kind: by_layer[name] for kind in STATISTICS if name in (by_layer := getattr(self, kind))}
        return Layer(
            name=name,
            weight=weight,
            r=r,
            scaling=scaling,
            learning_rates=learning_rates,
            svds={matrix: by_layer[name] for matrix, by_layer in self.svds.items() if name in by_layer},
            **{kind: statistic.to(weight.device) for kind, statistic in found.items()},
        )

    def to_entry(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """An entry of the cache: tensors by name, and everything else as plain values."""
        tensors: dict[str, Tensor] = {}
        for kind in STATISTICS:
            tensors |= {f"{kind}/{name}": matrix for name, matrix in getattr(self, kind).items()}
        for of, by_name in self.svds.items():
            for name, svd in by_name.items():
                tensors |= {f"svd/{of}/{name}/{part}": getattr(svd, part) for part in PARTS}
        facts = {
            "facts": self.facts.model_dump(),
            "errors": {of: {name: svd.error for name, svd in by_name.items()} for of, by_name in self.svds.items()},
        }
        return tensors, facts

    @classmethod
    def from_entry(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Calibration:
        """The calibration of which `to_entry` made this entry, equal to the bit."""
        found = cls(facts=CalibrationFacts(**facts["facts"]))
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            if kind != "svd":
                getattr(found, kind)[name] = tensor
        for of, errors in facts["errors"].items():
            found.svds[of] = {
                name: SVD(**{part: tensors[f"svd/{of}/{name}/{part}"] for part in PARTS}, error=error)
                for name, error in errors.items()
            }
        return found
