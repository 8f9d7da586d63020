"""What a method wants of calibration, what it gets, and what that cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bench.methods.base import AdapterMethod, Method, Rank, Spectral, SpectralMethod, Statistic, sketches
from bench.methods.svd import SVD, SVDSettings

PARTS = ("U", "S", "Vh")
MATRICES: tuple[Statistic, ...] = ("gradient", "input_covariance", "label_covariance")
DEFAULT_SVD = SVDSettings(solver="exact", rank=1, tolerance=1e-3, sketch_bound=0.5)


@dataclass(frozen=True)
class Wanted:
    """What calibration is to deliver.

    Attributes:
        keeps: statistics handed on as matrices.
        decomposes: matrices of which the leading singular triplets are handed on.
        sketched: whether those of the gradient come from a sketch.
        num_singular: how many triplets are used; `svd.rank` may keep more of them.
    """

    keeps: frozenset[Statistic] = frozenset()
    decomposes: frozenset[Spectral] = frozenset()
    sketched: bool = False
    num_singular: int = 1
    svd: SVDSettings = DEFAULT_SVD

    @classmethod
    def by(cls, method: Method, rank: Rank, svd: SVDSettings) -> Wanted:
        """What a method needs at a rank."""
        if not isinstance(method, AdapterMethod):
            return cls()
        if not isinstance(method, SpectralMethod):
            return cls(keeps=method.requires)
        of_gradient = method.decomposes - {"weight"}
        keeps = method.requires - {"gradient"} if of_gradient else method.requires
        return cls(keeps, method.decomposes, sketches(method), method.num_singular(rank.r), svd)

    @property
    def gradient(self) -> bool:
        """Whether a backward pass is needed."""
        return "gradient" in self.keeps or bool(self.decomposes - {"weight"})

    @property
    def data(self) -> bool:
        """Whether any data is needed."""
        return self.gradient or bool(self.keeps)

    @property
    def title(self) -> str:
        """In words, for a listing."""
        width = max(self.svd.rank, self.num_singular)
        parts = [kind.replace("_", " ") for kind in sorted(self.keeps)]
        sketched = "a sketch of the " if self.sketched else ""
        return " and ".join(parts + [f"{width} triplets of {sketched}{of}" for of in sorted(self.decomposes)])

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a key: two that ask for the same are equal."""
        width = max(self.svd.rank, self.num_singular) if self.decomposes else None
        return {
            "keeps": sorted(self.keeps),
            "decomposes": sorted(self.decomposes),
            "sketched": self.sketched and self.num_singular,  # its error is estimated for the triplets that are used
            "svd": self.svd.identity(self.sketched) | {"rank": width} if self.decomposes else None,
        }


@dataclass
class Cost:
    """What calibration cost.

    Attributes:
        seconds: by part: forward, backward (of activations), gradient (forming and adding), svd, storage (of totals).
        peak_bytes: the highest memory, as bench.process.phases counts it.
        place: where totals lay between batches; None where there was one batch.
        batch_size: samples a backward pass, after halving for want of memory.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None
    place: str | None = None
    batch_size: int | None = None

    @property
    def total_seconds(self) -> float:
        """Of all parts together."""
        return sum(self.seconds.values())


@dataclass
class Calibration:
    """What a method asked for, per target layer, as bench.methods.base.Layer describes it; on the host, float32.

    Attributes:
        loss: the pretrained model's on the calibration samples, nats a token; None without data.
        exact_layers: layers whose sketch was too rough, and whose gradient was formed instead.
    """

    gradient: dict[str, Float[Tensor, "out in"]] = field(default_factory=dict)
    input_covariance: dict[str, Float[Tensor, "in in"]] = field(default_factory=dict)
    label_covariance: dict[str, Float[Tensor, "in in"]] = field(default_factory=dict)
    svds: dict[Spectral, dict[str, SVD]] = field(default_factory=dict)
    loss: float | None = None
    num_samples: int = 0
    exact_layers: list[str] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)

    @property
    def largest_error(self) -> float | None:
        """The largest estimated error of a decomposition; None where there is none."""
        return max((svd.error for by_name in self.svds.values() for svd in by_name.values()), default=None)

    def of(self, name: str, device: torch.device) -> dict[str, Any]:
        """The layer's part, as keywords of bench.methods.base.Layer."""
        matrices = {kind: getattr(self, kind).get(name) for kind in MATRICES}
        return {
            **{kind: None if matrix is None else matrix.to(device) for kind, matrix in matrices.items()},
            "svds": {kind: by_name[name] for kind, by_name in self.svds.items() if name in by_name},
        }

    def to_entry(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and everything else as plain values; `from_entry` is the way back."""
        tensors: dict[str, Tensor] = {}
        for kind in MATRICES:
            tensors |= {f"{kind}/{name}": matrix for name, matrix in getattr(self, kind).items()}
        for of, by_name in self.svds.items():
            for name, svd in by_name.items():
                tensors |= {f"svd/{of}/{name}/{part}": getattr(svd, part) for part in PARTS}
        facts = {
            "loss": self.loss,
            "num_samples": self.num_samples,
            "exact_layers": self.exact_layers,
            "cost": asdict(self.cost),
            "errors": {of: {name: svd.error for name, svd in by_name.items()} for of, by_name in self.svds.items()},
        }
        return tensors, facts

    @classmethod
    def from_entry(cls, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Calibration:
        """What `to_entry` made of it, bit by bit."""
        found = cls(
            loss=facts["loss"],
            num_samples=facts["num_samples"],
            exact_layers=list(facts["exact_layers"]),
            cost=Cost(**facts["cost"]),
        )
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
