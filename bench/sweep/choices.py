"""What each choice of a sweep writes into a configuration, and what several of them come to together.

A choice (method=hu, task=glue/sst2) stands for files of Hydra's defaults list. Put in another's place it changes only
what the files that go and those that come write. Choices whose files write different keys can be put together; those
that write the same ones are composed together. Leaves of a configuration are written as tuples of keys.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

Leaf = tuple[str, ...]
Chosen = tuple[str, ...]
Sections = Mapping[str, tuple[Any, Any]]  # of a configuration: top-level key -> (what it was made from, raw value)
PRIVATE = ("hydra", "experiments")  # what changes with these is not looked into


class NotSeparableError(Exception):
    """Choices that may depend on one another, or anything else that only Hydra can say."""


@dataclass(frozen=True)
class _Change:
    """What another choice than the first cell's writes, and the configuration with it."""

    leaves: frozenset[Leaf]
    config: Mapping[str, Any]


class Choices:
    """The choices of cells that override the same keys.

    Args:
        config: of the sweep, with its hydra node.
        first: the overrides of the first cell.
        plain: how Hydra composes it, without the hydra node, not resolved.

    Raises:
        NotSeparableError: these cells are to be composed as a whole.
    """

    def __init__(
        self, config: DictConfig, loader: ConfigLoaderImpl, first: Sequence[Override], plain: Mapping[str, Any]
    ) -> None:
        self._config_name = config.hydra.job.config_name
        self._loader, self._first, self._plain = loader, list(first), plain
        given: Any = OmegaConf.to_container(config.hydra.overrides.hydra)
        self._hydra = _parse(given)
        self._files = CachingConfigRepository(loader.repository)
        keys = [override.key_or_group for override in first]
        if len(set(keys)) < len(keys) or any(override.is_delete() for override in (*self._hydra, *first)):
            raise NotSeparableError("a key that is given twice, or taken out")
        if any(override.key_or_group == "hydra.searchpath" for override in self._hydra):
            raise NotSeparableError("other folders of configurations")
        # hydra.searchpath of config.yaml: as Hydra does for each composition.
        loader._process_config_searchpath(self._config_name, [*self._hydra, *first], self._files)
        self._texts = tuple(str(override.input_line) for override in first)
        self._is_value = [self._sets_a_value(override) for override in first]
        self._values_set = {
            tuple(o.key_or_group.split(".")) for o, yes in zip(first, self._is_value, strict=True) if yes
        }
        self._default = self._defaults(self._first)
        self._changes: dict[Chosen, _Change] = {}
        if self._composed(self._first, self._default) != plain:
            raise NotSeparableError("composed otherwise than by Hydra")
        self._checked = False

    def chosen(self, cell: Sequence[str]) -> Chosen:
        """A cell's overrides with those of single values as in the first cell: what Hydra has to compose."""
        return tuple(
            own if is_value else text for own, text, is_value in zip(self._texts, cell, self._is_value, strict=True)
        )

    def values(self, cell: Sequence[str]) -> list[int]:
        """Where a cell gives single values other than the first cell's."""
        return [place for place, yes in enumerate(self._is_value) if yes and cell[place] != self._texts[place]]

    def assembled(self, chosen: Chosen) -> Sections:
        """The configuration of some choices.

        Raises:
            NotSeparableError, HydraException: they are to be composed as a whole.
        """
        clusters = self._clusters([place for place, text in enumerate(chosen) if text != self._texts[place]], chosen)
        sections: dict[str, tuple[Any, Any]] = {}
        for name in dict.fromkeys([*self._plain, *(s for change in clusters.values() for s in change.config)]):
            touching = {
                key: change for key, change in clusters.items() if any(leaf[0] == name for leaf in change.leaves)
            }
            if not touching:
                if name in self._plain:
                    sections[name] = ((), self._plain[name])
            elif len(touching) == 1:
                ((key, change),) = touching.items()
                if name in change.config:
                    sections[name] = (key, change.config[name])
            else:
                sections[name] = (tuple(touching), self._merged(name, touching.values()))
        if not self._checked and len(clusters) > 1:
            self._check(chosen, sections)
        return sections

    def _check(self, chosen: Chosen, sections: Sections) -> None:
        """The first cell that is put together from several choices is composed as well."""
        overrides = _parse(chosen)
        if self._composed(overrides, self._defaults(overrides)) != {name: raw for name, (_, raw) in sections.items()}:
            raise NotSeparableError("choices that depend on one another")
        self._checked = True

    def _clusters(self, places: Sequence[int], chosen: Chosen) -> dict[Chosen, _Change]:
        """Changed choices, those together that write the same keys."""
        clusters: list[tuple[list[int], _Change]] = []
        for place in places:
            members, change = [place], self._change([place], chosen)
            while overlapping := next((c for c in clusters if _overlap(c[1].leaves, change.leaves)), None):
                clusters.remove(overlapping)
                members = sorted([*members, *overlapping[0]])
                change = self._change(members, chosen)
            clusters.append((members, change))
        return {tuple(chosen[place] for place in members): change for members, change in clusters}

    def _change(self, places: Sequence[int], chosen: Chosen) -> _Change:
        key = tuple(chosen[place] for place in places)
        if key not in self._changes:
            for place in places:
                if self._first[place].key_or_group.split(".")[0].split("/")[0] in PRIVATE:
                    raise NotSeparableError(chosen[place])
            overrides = list(self._first)
            for place, override in zip(places, _parse(key), strict=True):
                overrides[place] = override
            defaults = self._defaults(overrides)
            gone = [default for default in self._default if default not in defaults]
            come = [default for default in defaults if default not in self._default]
            if [d for d in self._default if d in defaults] != [d for d in defaults if d in self._default]:
                raise NotSeparableError("another order")
            removed, added = self._leaves(gone), self._leaves(come)
            # A single value on the command line is set last, whatever the files say, as long as they have the key.
            apart = {leaf for leaf in self._values_set if leaf in added or leaf not in removed}
            own = {tuple(override.key_or_group.split(".")) for override in _parse(key) if not self._is_group(override)}
            leaves = frozenset((removed | added) - apart | own)
            self._changes[key] = _Change(leaves, self._composed(overrides, defaults))
        return self._changes[key]

    def _leaves(self, defaults: Sequence[ResultDefault]) -> set[Leaf]:
        """What the files of choices write.

        Raises:
            NotSeparableError: one of them chooses other files' places too.
        """
        found: set[Leaf] = set()
        for default in defaults:
            loaded = self._files.load_config(str(default.config_path))
            if loaded is None or any(entry.is_override() for entry in loaded.defaults_list or []):
                raise NotSeparableError(str(default.config_path))
            embedded: Any = self._loader._load_single_config(default, self._files).config
            found |= set(leaves_of(OmegaConf.to_container(embedded, resolve=False)))
        return {leaf for leaf in found if leaf[-1] != "defaults" and leaf[0] not in PRIVATE}

    def _defaults(self, overrides: Sequence[Override]) -> list[ResultDefault]:
        """The files of a configuration in the order in which they are merged, without Hydra's own."""
        found = create_defaults_list(
            repo=self._files,
            config_name=self._config_name,
            overrides_list=[*self._hydra, *overrides],
            prepend_hydra=True,
            skip_missing=False,
        )
        for default in found.defaults:
            loaded = self._files.load_config(str(default.config_path))
            for entry in (loaded.defaults_list if loaded else None) or []:
                if "${" in f"{getattr(entry, 'value', '')}{getattr(entry, 'path', '')}":
                    raise NotSeparableError(f"{default.config_path} chooses by another choice")
        return [default for default in found.defaults if not str(default.config_path).startswith("hydra/")]

    def _composed(self, overrides: Sequence[Override], defaults: Sequence[ResultDefault]) -> dict[str, Any]:
        """What Hydra composes, without the hydra node."""
        config = self._loader._compose_config_from_defaults_list(list(defaults), _Copies(self._files))
        config.pop("hydra", None)
        OmegaConf.set_struct(config, True)
        own = [
            o for o in (*self._hydra, *overrides) if not self._is_group(o) and not o.key_or_group.startswith("hydra")
        ]
        self._loader._apply_overrides_to_config(own, config)
        composed: Any = OmegaConf.to_container(config, resolve=False)
        return composed

    def _merged(self, name: str, changes: Any) -> Any:
        """A section that several choices write, each other keys of it."""
        found: dict[str, Any] = {name: copy.deepcopy(self._plain.get(name))} if name in self._plain else {}
        for change in changes:
            for leaf in sorted(leaf for leaf in change.leaves if leaf[0] == name):
                _remove(found, leaf)
        for change in changes:
            for leaf in sorted(leaf for leaf in change.leaves if leaf[0] == name):
                _copy(change.config, found, leaf)
        return found[name]

    def _is_group(self, override: Override) -> bool:
        return not isinstance(override.value(), dict) and self._files.group_exists(override.key_or_group)

    def _sets_a_value(self, override: Override) -> bool:
        """Whether it gives a key of the first cell another single value, or a list of such."""
        value: Any = self._plain
        for key in override.key_or_group.split("."):
            if not isinstance(value, dict) or key not in value:
                return False
            value = value[key]
        given = override.value()
        plain = all(_is_single(one) for one in given) if isinstance(given, list) else _is_single(given)
        changes = not (override.is_add() or override.is_force_add() or self._is_group(override))
        return changes and plain and override.package is None and not isinstance(value, dict)


class _Copies(CachingConfigRepository):
    """Files as another repository keeps them; what is composed from them does not change what is kept."""

    def __init__(self, files: CachingConfigRepository) -> None:
        self.delegate, self.cache = files, {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        found = self.delegate.load_config(config_path)
        if found is None:
            return None
        copied = copy.copy(found)
        copied.config = copy.deepcopy(found.config)
        return copied


def whole_key(override: Override) -> str:
    """The key of an override, with what it does to it."""
    return str(override.input_line).split("=", 1)[0]


def leaves_of(config: Any, path: Leaf = ()) -> Iterator[Leaf]:
    """The places of all values but dicts, and of empty dicts."""
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from leaves_of(value, (*path, key))
    elif path:
        yield path


def deep_set(raw: Any, path: Sequence[str], value: Any) -> Any:
    """A copy with another value at a place that it has; the rest is shared.

    Raises:
        NotSeparableError: it has no such place, or a dict there.
    """
    if not path:
        if isinstance(raw, dict):
            raise NotSeparableError("a dict is to be replaced")
        return value
    if not isinstance(raw, dict) or path[0] not in raw:
        raise NotSeparableError(f"there is no {path[0]}")
    return raw | {path[0]: deep_set(raw[path[0]], path[1:], value)}


def _is_single(value: Any) -> bool:
    return value is None or isinstance(value, int | float | str)


def _overlap(one: frozenset[Leaf], other: frozenset[Leaf]) -> bool:
    """Whether two choices write the same leaf, or one of them above the other's."""
    starts = {leaf[:length] for leaf in one for length in range(1, len(leaf) + 1)}
    others = {leaf[:length] for leaf in other for length in range(1, len(leaf) + 1)}
    return not (one.isdisjoint(others) and other.isdisjoint(starts))


def _remove(config: dict[str, Any], leaf: Leaf) -> None:
    """Takes a leaf out, and the dicts that are empty without it."""
    if len(leaf) > 1:
        inner = config.get(leaf[0])
        if not isinstance(inner, dict):
            return
        _remove(inner, leaf[1:])
        if inner:
            return
    config.pop(leaf[0], None)


def _copy(source: Mapping[str, Any], target: dict[str, Any], leaf: Leaf) -> None:
    """Puts what one configuration has at a place into another; nothing where it has nothing there."""
    value: Any = source
    for key in leaf:
        if not isinstance(value, dict) or key not in value:
            return
        value = value[key]
    for key in leaf[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise NotSeparableError(".".join(leaf))
    target[leaf[-1]] = copy.deepcopy(value)


def _parse(texts: Sequence[str]) -> list[Override]:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(list(texts))
