"""From a cell's overrides to its run, for sweeps of ten thousand cells.

Hydra takes up to a quarter of a second for a configuration, and most cells of a sweep differ from the first one in
choices that do not meddle with each other. So Hydra composes the first cell, and then each other choice once, in the
first one's place; a cell is put together from what its choices write (bench.sweep.choices), and each part of it is
resolved and validated once. Wherever that could come to something else than Hydra's own composition (a choice that
overrides another, a deletion, an unknown resolver) or to an error, the cell is composed by Hydra as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.sweep.choices import Choices, NotSeparableError, Sections, deep_set, whole_key

if TYPE_CHECKING:
    from bench.config import Run

Builder = Callable[[DictConfig], "Run"]
LATE = ("seed=", "train.learning_rate=")  # set after composition as well as before it
# What a resolver reads: these the choice of their group, scaling adapter.scaling, oc.env no configuration.
READS = {
    "by_method": "method", "by_rank": "rank", "by_task": "task", "by_model": "model", "scaling": "adapter",
    "oc.env": None,
}  # fmt: skip
_INTERPOLATION = re.compile(r"\$\{\s*([A-Za-z_][\w.]*)\s*([:}])")


class RefusedError(ValueError):
    """A cell whose parts are right and which cannot be run all the same; one line."""


class Composer:
    """Composes and validates cells; equal overrides give the same Run.

    Args:
        config: of the sweep, with its hydra node.
        build: the run of a composed configuration; raises ValueError.
        study: what a configuration without a study is called.
    """

    def __init__(self, config: DictConfig, build: Builder, study: Callable[[], str]) -> None:
        self._config = config
        self._build = build
        self._study = study
        self._loader = GlobalHydra.instance().config_loader()
        self._parser = OverridesParser.create()
        self._parsed: dict[str, Override] = {}
        self._families: dict[tuple[str, ...], _Family | None] = {}
        self._composed: dict[tuple[str, ...], DictConfig] = {}  # as wholes
        self._known: dict[tuple[str, ...], Run] = {}

    def __call__(self, overrides: Sequence[str]) -> Run:
        """The run of a cell.

        Raises:
            ValueError: it cannot be composed or run; one line.
        """
        cell = tuple(overrides)
        if cell not in self._known:
            self._known[cell] = self._quickly(cell) or self._wholly(cell)
        return self._known[cell]

    def _wholly(self, cell: tuple[str, ...]) -> Run:
        """As Hydra composes it; once for cells that differ in seed and learning rate alone."""
        late = tuple(text for text in cell if text.startswith(LATE))
        early = tuple(text for text in cell if text not in late)
        try:
            if early not in self._composed:
                self._composed[early] = self._loader.load_sweep_config(self._config, list(early))
            HydraConfig.instance().set_config(self._composed[early])
            plain = without_hydra(self._composed[early])
            for text in late:
                override = self._parse(text)
                OmegaConf.update(plain, override.key_or_group, override.value())
        except HydraException as error:
            raise ValueError(" ".join(str(error).split())) from None
        try:
            return self._build(plain)
        except OmegaConfBaseException as error:  # of an interpolation, met on the way to a missing value
            raise ValueError(str(error).splitlines()[0]) from None

    def _quickly(self, cell: tuple[str, ...]) -> Run | None:
        """The same from parts; None where it may not be the same, and for what is wrong."""
        try:
            parsed = [self._parse(text) for text in cell]
            keys = tuple(whole_key(override) for override in parsed)
            if keys not in self._families:
                self._families[keys] = None
                self._families[keys] = _Family(self._config, self._loader, parsed, self._study)
            family = self._families[keys]
            return None if family is None else family.run(cell, parsed)
        except RefusedError:
            raise
        except (NotSeparableError, HydraException, OmegaConfBaseException, ValueError, TypeError):
            return None  # composed as a whole, whose errors are the ones to be told

    def _parse(self, text: str) -> Override:
        if text not in self._parsed:
            self._parsed[text] = self._parser.parse_override(text)
        return self._parsed[text]


def without_hydra(composed: DictConfig) -> DictConfig:
    """The part of a composed configuration that is the run's."""
    plain = composed.copy()
    OmegaConf.set_readonly(plain, False)
    OmegaConf.set_struct(plain, False)
    del plain["hydra"]
    return plain


class _Family:
    """Cells that override the same keys, compared with the first of them."""

    def __init__(self, config: DictConfig, loader: Any, first: Sequence[Override], study: Callable[[], str]) -> None:
        composed = loader.load_sweep_config(config, [override.input_line for override in first])
        HydraConfig.instance().set_config(composed)  # copies it, which takes 20 ms: not for every cell
        plain: Any = OmegaConf.to_container(without_hydra(composed), resolve=False)
        self._study = study()
        self._choices = Choices(config, loader, first, plain)
        self._assembled: dict[tuple[str, ...], Sections] = {}
        self._common: dict[tuple[tuple[str, ...], frozenset[str]], tuple[dict[str, Any], list[str]]] = {}
        self._values: dict[tuple[Any, ...], Any] = {}  # sections after overrides of single values
        self._reads: dict[tuple[str, Any], frozenset[str]] = {}
        self._parts: dict[tuple[Any, ...], dict[str, Any]] = {}

    def run(self, cell: tuple[str, ...], parsed: Sequence[Override]) -> Run:
        """The run of a cell; its parts are those of other runs where they are the same.

        Raises:
            NotSeparableError: nothing can be said without Hydra.
            ValueError: it cannot be run.
        """
        from bench.config import Run

        run = Run(**self._fields(cell, parsed))
        try:
            run.check()
            _ = run.run_id  # reads the model's folder
        except ValueError as error:
            raise RefusedError(str(error).splitlines()[0]) from None
        return run

    def _fields(self, cell: tuple[str, ...], parsed: Sequence[Override]) -> dict[str, Any]:
        """What a Run is made from: what single values have no part in is the same for all cells of the same choices."""
        chosen = self._choices.chosen(cell)
        if chosen not in self._assembled:
            self._assembled[chosen] = self._choices.assembled(chosen)
        places = self._choices.values(cell)
        sections = dict(self._assembled[chosen])
        for place in places:
            self._put(sections, parsed[place], cell[place])
        changed = frozenset(parsed[place].key_or_group.split(".")[0] for place in places)
        if (chosen, changed) not in self._common:
            reading = [name for name in sections if changed & {read for read, _ in self._closure(name, sections)}]
            common: dict[str, Any] = {}
            for name in sections:
                common |= {} if name in reading else self._part(name, sections)
            self._common[chosen, changed] = common, reading
        common, reading = self._common[chosen, changed]
        fields = dict(common)
        for name in reading:
            fields |= self._part(name, sections)
        return fields

    def _put(self, sections: dict[str, tuple[Any, Any]], override: Override, text: str) -> None:
        """Gives one key another value, as OmegaConf.update does with what is no container."""
        section, *inner = override.key_or_group.split(".")
        made_from, raw = sections[section]
        key = (section, made_from, text)
        if key not in self._values:
            self._values[key] = deep_set(raw, inner, override.value())
        sections[section] = ((made_from, text), self._values[key])

    def _part(self, name: str, sections: Sections) -> dict[str, Any]:
        """The fields of a Run that a section makes, with all that its interpolations read."""
        from bench.config import Run

        key = self._closure(name, sections)
        if key not in self._parts:
            value = _resolved(name, {read: sections[read][1] for read, _ in key})
            if name == "study":
                value = value or self._study
            self._parts[key] = Run.part(name, value)
        return self._parts[key]

    def _closure(self, name: str, sections: Sections) -> tuple[tuple[str, Any], ...]:
        """A section and those that it reads, and they read, each with what it was made from."""
        found = [name]
        for section in found:  # grows
            if section not in sections:
                raise NotSeparableError(f"there is no {section}")
            made_from, raw = sections[section]
            if (section, made_from) not in self._reads:
                self._reads[section, made_from] = frozenset(read_by(raw))
            found += sorted(self._reads[section, made_from] - set(found))
        return tuple((section, sections[section][0]) for section in found)


def read_by(raw: Any) -> set[str]:
    """The sections of a configuration that the interpolations in a raw value read.

    Raises:
        NotSeparableError: a resolver that may read anything, or a value that is missing.
    """
    if isinstance(raw, dict):
        return set().union(*map(read_by, raw.values()))
    if isinstance(raw, list):
        return set().union(*map(read_by, raw))
    if raw == "???":
        raise NotSeparableError("a value is missing")
    if not isinstance(raw, str) or "${" not in raw:
        return set()
    found = _INTERPOLATION.findall(raw)
    if len(found) != raw.count("${") or any(end == ":" and name not in READS for name, end in found):
        raise NotSeparableError(raw)
    return {READS[name] if end == ":" else name.split(".")[0] for name, end in found} - {None}  # type: ignore[return-value]


def _resolved(name: str, raw: Mapping[str, Any]) -> Any:
    """A section without interpolations, given those that it reads."""
    if len(raw) == 1 and not read_by(raw[name]):
        return raw[name]
    resolved: Any = OmegaConf.to_container(OmegaConf.create(dict(raw)), resolve=True)
    return resolved[name]
