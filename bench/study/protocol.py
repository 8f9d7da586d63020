"""The protocol of a study with stages, `hydra.sweeper` of its experiment (conf/protocol), and the cells it makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from bench.process.validation import did_you_mean
from bench.study.plan_file import ITEMS, PUBLISHED, RATE_KEY, SEARCH, SEEDS, SELECT, SHARED, TUNED

RATE = "rate"  # in a stage: how its learning rates are found
RULES = (SEARCH, SELECT, TUNED, SHARED, PUBLISHED)
AUTO = "auto"  # of a centre: from the curvature of the loss at step 0


@dataclass(frozen=True)
class Rates:
    """hydra.sweeper.rates: the learning rates of every rule.

    Attributes:
        centre: by method, the rate around which its search begins; or `auto`: that of train.learning_rate=auto, of
            which every method runs one cell first.
        points: rates that the search tries at the first budget, the same number for every method; at least 3.
        budgets: shares of the full budget of steps, ascending; the last is the full one, 1.
        reserve: rates that the selection may add where its best one is the smallest or largest.
        shared: the one rate of all methods, or the name of the method whose tuned rate all take.
        published: by method, the rate in its paper.
    """

    centre: Mapping[str, float] | str
    points: int = 7
    budgets: Sequence[float] = (0.25, 0.5, 1.0)
    reserve: int = 2
    shared: str | float | None = None
    published: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.centre, str) and self.centre != AUTO:
            raise ValueError(f"hydra.sweeper.rates.centre={self.centre}: a rate for each method, or {AUTO}")
        if self.points < 3:
            raise ValueError(f"hydra.sweeper.rates.points={self.points}: a search begins with 3 rates; give 3 or more")
        if list(self.budgets) != sorted(set(self.budgets)) or self.budgets[-1] != 1 or self.budgets[0] <= 0:
            raise ValueError(
                f"hydra.sweeper.rates.budgets={list(self.budgets)}: shares of train.max_steps, ascending, the last 1"
            )


@dataclass(frozen=True)
class Definition:
    """hydra.sweeper of an experiment with stages.

    Attributes:
        params: the axes that all stages sweep over: override key -> values joined by commas.
        stages: by name, the stage's overrides beside `rate`.
        only: by method, the values of other axes with which it is run; all others are left out.
        run: names of the stages to run now, joined by commas; None for all.
        pairing: what the tables' comparisons pair: "items", or "seeds" as well.
    """

    params: Mapping[str, str]
    stages: Mapping[str, Mapping[str, Any]]
    rates: Rates
    only: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    run: str | None = None
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
            meant = did_you_mean(unknown[0], stages.keys())
            raise ValueError(f"hydra.sweeper.run={','.join(unknown)}{meant}: the stages are {', '.join(stages)}")
        pairing: Any = values.get("pairing") or ITEMS
        if pairing not in (ITEMS, SEEDS):
            raise ValueError(f"hydra.sweeper.pairing={pairing}; choose from {ITEMS}, {SEEDS}")
        return cls(
            values["params"] or {},
            stages,
            Rates(**values["rates"]),
            values.get("only") or {},
            values.get("run"),
            pairing,
        )

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
        learning_rate: None if it is not chosen yet, or if the method trains nothing; `auto` is the suite's to find.
        waits: it is not chosen yet; a rate that is given all the same is only what it might be.
    """

    stage: str
    group: tuple[str, ...]
    overrides: tuple[str, ...]
    learning_rate: float | str | None
    waits: bool = False

    @property
    def all_overrides(self) -> tuple[str, ...]:
        """The overrides with the learning rate, as Hydra takes them."""
        rate = self.learning_rate
        if rate is None:
            return self.overrides
        return (*self.overrides, RATE_KEY + (rate if isinstance(rate, str) else f"{rate:g}"))


def words(text: Any) -> list[str]:
    """Splits a text such as "r8,r16" at its commas; empty for None."""
    return [] if text is None else [word.strip() for word in str(text).split(",")]
