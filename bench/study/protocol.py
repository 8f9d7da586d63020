"""The protocol of a study with stages, `hydra.sweeper` of its experiment (conf/protocol), and the cells it makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from bench.study.plan_file import ITEMS, PUBLISHED, RATE_KEY, SEEDS, SHARED, TUNED

RATE = "rate"  # in a stage: how its learning rates are found
GRID = "grid"  # the rule of the stage select
RULES = (GRID, TUNED, SHARED, PUBLISHED)


@dataclass(frozen=True)
class Rates:
    """hydra.sweeper.rates: the learning rates of every rule.

    Attributes:
        centre: by method, the middle of its grid: in the 1-3-10 series (per_decade 2) or the 1-2-5 series (3).
        points: rates of each grid; odd.
        shared: the one rate of all methods, or the name of the method whose tuned rate all take.
        published: by method, the rate in its paper.
    """

    centre: Mapping[str, float]
    points: int = 5
    per_decade: int = 2
    shared: str | float | None = None
    published: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Definition:
    """hydra.sweeper of an experiment with stages.

    Attributes:
        params: the axes that all stages sweep over: override key -> values joined by commas.
        stages: by name, the stage's overrides beside `rate`.
        only: by method, the values of other axes with which it is run; all others are left out.
        run: names of the stages to run now, joined by commas; None for all.
        extend: points that may be added beyond an end of a grid at which the best rate lies.
        pairing: what the tables' comparisons pair: "items", or "seeds" as well.
    """

    params: Mapping[str, str]
    stages: Mapping[str, Mapping[str, Any]]
    rates: Rates
    only: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    run: str | None = None
    extend: int = 0
    pairing: Literal["items", "seeds"] = "items"

    @classmethod
    def from_config(cls, sweeper: DictConfig) -> Definition:
        """Reads `hydra.sweeper` of a composed configuration.

        Raises:
            ValueError: a stage has no known rule for its learning rates, `run` names a stage that does not exist, or
                `pairing` is no known one.
        """
        values: Any = OmegaConf.to_container(sweeper, resolve=True)
        stages = {name: stage for name, stage in values["stages"].items() if stage is not None}
        for name, stage in stages.items():
            if stage.get(RATE) not in RULES:
                raise ValueError(f"hydra.sweeper.stages.{name}.rate={stage.get(RATE)}; choose from {', '.join(RULES)}")
        asked = words(values.get("run"))
        if unknown := [name for name in asked if name not in stages]:
            raise ValueError(f"hydra.sweeper.run={','.join(unknown)}: the stages are {', '.join(stages)}")
        pairing: Any = values.get("pairing") or ITEMS
        if pairing not in (ITEMS, SEEDS):
            raise ValueError(f"hydra.sweeper.pairing={pairing}; choose from {ITEMS}, {SEEDS}")
        return cls(
            values["params"] or {}, stages, Rates(**values["rates"]), values.get("only") or {}, values.get("run"),
            values.get("extend") or 0, pairing,
        )  # fmt: skip

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the stages to run now."""
        return tuple(name for name in self.stages if self.run is None or name in words(self.run))


def check_sweeper(sweeper: DictConfig) -> None:
    """Refuses a list, which Hydra does not sweep, and ${...}, which Hydra fills once for all cells.

    Args:
        sweeper: hydra.sweeper of a composed configuration.

    Raises:
        ValueError: there is one; one line.
    """
    values: Any = OmegaConf.to_container(sweeper, resolve=False)
    for key, value in (values["params"] or {}).items():
        if isinstance(value, list):
            written = ",".join(map(str, value))
            raise ValueError(
                f"hydra.sweeper.params.{key} is a list, which Hydra does not sweep; write {key}: {written}"
            )
    for where, key, value in _interpolations(values, "hydra.sweeper"):
        raise ValueError(
            f"{where}={value} would be filled once, from the defaults, and not in each cell: set {key} to {value} in "
            f"the experiment's body, or say '{key}={value}' on the command line"
        )


def _interpolations(values: Mapping[str, Any], above: str) -> Iterator[tuple[str, str, str]]:
    """Every value with ${...} in it: its place in the configuration, its key and its text."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _interpolations(value, f"{above}.{key}")
        elif isinstance(value, str) and "${" in value:
            yield f"{above}.{key}", key, value


@dataclass(frozen=True)
class StageCell:
    """One run of a stage before it is composed.

    Attributes:
        group: overrides that all stages share, without the seed.
        overrides: all of its overrides but the learning rate.
        learning_rate: None if it is not chosen yet, or if the method trains nothing.
        waits: it is not chosen yet.
    """

    stage: str
    group: tuple[str, ...]
    overrides: tuple[str, ...]
    learning_rate: float | None
    waits: bool = False

    @property
    def all_overrides(self) -> tuple[str, ...]:
        """The overrides with the learning rate, as Hydra takes them."""
        rate = () if self.learning_rate is None else (f"{RATE_KEY}{self.learning_rate:g}",)
        return (*self.overrides, *rate)


def words(text: Any) -> list[str]:
    """Splits a text such as "r8,r16" at its commas; empty for None."""
    return [] if text is None else [word.strip() for word in str(text).split(",")]
