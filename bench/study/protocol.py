"""What hydra.sweeper of an experiment with stages says (conf/protocol), typed; and a cell of such a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bench.study.plan_file import PUBLISHED, RATE_KEY, SHARED, TUNED

RATE = "rate"  # in a stage: how its learning rates are found
GRID = "grid"  # the rule of the stage select
RULES = (GRID, TUNED, SHARED, PUBLISHED)


@dataclass(frozen=True)
class Rates:
    """hydra.sweeper.rates: a grid of `points` rates around each method's centre, and the rates of the other rules.

    Attributes:
        centre: the middle of a method's grid, in the 1-3-10 series (per_decade 2) or the 1-2-5 series (3).
        shared: a learning rate for all methods, or the method whose tuned rate all take.
        published: a method's rate in the paper.
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
        only: for a method, the values of other common axes with which it takes part.
        run: the stages to be run now; None: all.
        extend: points that may be added beyond each end of a grid whose best rate lies there.
    """

    params: Mapping[str, str]
    stages: Mapping[str, Mapping[str, Any]]
    rates: Rates
    only: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    run: str | None = None
    extend: int = 0

    @classmethod
    def from_config(cls, sweeper: DictConfig) -> Definition:
        """Reads the sweeper's part of a composed configuration.

        Raises:
            ValueError: a stage without a known rule, or `run` names a stage that there is not.
        """
        values: Any = OmegaConf.to_container(sweeper, resolve=True)
        stages = {name: stage for name, stage in values["stages"].items() if stage is not None}
        for name, stage in stages.items():
            if stage.get(RATE) not in RULES:
                raise ValueError(f"hydra.sweeper.stages.{name}.rate={stage.get(RATE)}; choose from {', '.join(RULES)}")
        asked = words(values.get("run"))
        if unknown := [name for name in asked if name not in stages]:
            raise ValueError(f"hydra.sweeper.run={','.join(unknown)}: the stages are {', '.join(stages)}")
        return cls(
            values["params"] or {}, stages, Rates(**values["rates"]), values.get("only") or {}, values.get("run"),
            values.get("extend") or 0,
        )  # fmt: skip

    @property
    def asked(self) -> tuple[str, ...]:
        """The stages to be run now."""
        return tuple(name for name in self.stages if self.run is None or name in words(self.run))


@dataclass(frozen=True)
class Cell:
    """One run of a stage before it is composed; `learning_rate` is None where it is not known yet, or not needed."""

    stage: str
    group: tuple[str, ...]
    overrides: tuple[str, ...]
    learning_rate: float | None
    waits: bool = False

    @property
    def all_overrides(self) -> tuple[str, ...]:
        """With the learning rate, as Hydra takes them."""
        rate = () if self.learning_rate is None else (f"{RATE_KEY}{self.learning_rate:g}",)
        return (*self.overrides, *rate)


def words(text: Any) -> list[str]:
    """The values of a text such as "r8,r16"; none of None."""
    return [] if text is None else [word.strip() for word in str(text).split(",")]
