"""From a cell's overrides to its validated run.

Hydra composes once for each distinct set of choices (method=hu, task=glue/sst2, ...), which takes a tenth of a second.
Overrides of a single value that the configuration has already, such as seed=1, are set afterwards with
OmegaConf.update, which is what Hydra itself calls for them, last of all.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from bench.process.validation import did_you_mean
from bench.sweep.arguments import swept
from bench.sweep.choices import GROUPS
from bench.sweep.resolvers import build

if TYPE_CHECKING:
    from bench.config import Run

Overrides = tuple[str, ...]  # of one cell, as on its command line


def as_given(hydra: Any) -> list[str]:
    """The overrides of a command line, from a configuration's hydra node, with each ${...} as it was written.

    OmegaConf fills those of a list that is read one by one: in a sweep from the defaults, and not in each cell.
    """
    given: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return list(given)


def reason(error: BaseException) -> str:
    """Why Hydra or OmegaConf refuse a configuration, in one line; of a key that nothing reads, with the likely one."""
    if isinstance(cause := error.__cause__, ConfigAttributeError | ConfigKeyError) and cause.full_key is not None:
        known = [str(key) for key in cause.parent_node or ()]
        meant = did_you_mean(str(cause.key), known, cause.full_key.removesuffix(str(cause.key)))
        return f"nothing reads {cause.full_key}{meant}; known there are {', '.join(known)}"
    return " ".join(str(error).split())


@functools.cache
def parsed(text: str) -> Override:
    """An override as Hydra reads it, which takes it milliseconds.

    Raises:
        HydraException: it is none.
    """
    return OverridesParser.create().parse_override(text)


def product(overrides: Sequence[str]) -> list[Overrides]:
    """The cells of overrides such as method=hu,eva; of two overrides of one key the last one counts.

    Raises:
        HydraException: an override cannot be parsed, or not be enumerated.
        ValueError: glob(...) matches nothing.
    """
    axes: dict[str, list[str]] = {}
    for text in overrides:
        override = parsed(text)
        key, values = override.get_key_element(), swept(override)
        if values is None:  # Hydra would write ${rank.r} as $\{rank.r\}, which it reads as the same
            values = [override.get_value_string() if "${" in text else override.get_value_element_as_str()]
        axes[key] = [f"{key}={value}" for value in values]
    return list(itertools.product(*axes.values()))


class Composer:
    """Composes and validates cells, each once.

    Args:
        config: composed for the sweep, with its hydra node.
    """

    def __init__(self, config: DictConfig) -> None:
        self._config = config
        self._loader = GlobalHydra.instance().config_loader()
        HydraConfig.instance().set_config(config)  # which says what the experiment is, the same for all cells
        self._composed: dict[Overrides, DictConfig] = {}  # without the hydra node
        self._open: dict[tuple[Overrides, tuple[str, ...]], DictConfig] = {}  # copies, to set these keys in
        self._runs: dict[Overrides, Run] = {}

    def __call__(self, overrides: Sequence[str]) -> Run:
        """The run of a cell.

        Raises:
            ValueError: the cell cannot be composed or run; one line.
        """
        cell = tuple(overrides)
        if cell not in self._runs:
            try:
                self._runs[cell] = build(self.config(cell))
            except HydraException as error:
                raise ValueError(reason(error)) from None
        return self._runs[cell]

    def config(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of a cell, without its hydra node; it holds until the next cell is composed."""
        cell = tuple(overrides)
        given = [parsed(text) for text in cell]
        late = [override for override in given if _sets_a_value(override)] if all(map(_replaces, given)) else []
        early = tuple(text for text, override in zip(cell, given, strict=True) if override not in late)
        key = early, tuple(override.key_or_group for override in late)
        if key not in self._open:
            self._open[key] = copy.deepcopy(self._of_choices(early))
        try:
            for override in late:
                OmegaConf.update(self._open[key], override.key_or_group, override.value())
        except (ConfigAttributeError, ConfigKeyError):  # no such key: Hydra's message says so
            return self._of_choices(cell)
        return self._open[key]

    def _of_choices(self, overrides: Overrides) -> DictConfig:
        if overrides not in self._composed:
            composed = self._loader.load_sweep_config(self._config, list(overrides))
            with open_dict(composed):
                del composed["hydra"]
            self._composed[overrides] = composed
        return self._composed[overrides]


def _replaces(override: Override) -> bool:
    """Whether it chooses a file, or gives a key another value; not whether it adds, deletes or merges keys."""
    changes = override.is_add() or override.is_force_add() or override.is_delete() or override.package is not None
    return _chooses(override) or not (changes or isinstance(override.value(), dict))


def _chooses(override: Override) -> bool:
    key = override.key_or_group
    return key in (*GROUPS, "experiments") or "/" in key


def _sets_a_value(override: Override) -> bool:
    return not _chooses(override) and not isinstance(override.value(), list)
