"""experiments/ as a source of configurations: `+experiments=demo` is found from any folder, also in a wheel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from bench.study.folders import EXPERIMENTS as GROUP
from bench.study.folders import experiments_folder

HYDRA_KEYS = ("mode", "run", "sweep", "sweeper")  # a launcher is a choice of its own: launch=NAME


class ExperimentsSource(FileConfigSource):
    """The files of a folder's experiments/, and nothing else of the folder."""

    @staticmethod
    def scheme() -> str:
        """Of `experiments:///path/to/the/folder/above`."""
        return GROUP

    def is_group(self, config_path: str) -> bool:
        """Whether it is experiments/ or a folder in it."""
        return config_path == "" or (_within(config_path) and super().is_group(config_path))

    def is_config(self, config_path: str) -> bool:
        """Whether it is a file in experiments/."""
        return _within(config_path) and super().is_config(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        """A file, which may say what is run and not what is called.

        Raises:
            ConfigCompositionException: it names code for Hydra to call.
        """
        found = super().load_config(config_path)
        if reason := _calls(found):
            raise ConfigCompositionException(f"experiments: {config_path} {reason}")
        return found

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """What a group holds."""
        if config_path == "":
            return [] if results_filter is ObjectType.CONFIG else [GROUP]
        return super().list(config_path, results_filter)


def _calls(found: ConfigResult) -> str | None:
    """What in a file would make Hydra, or Python's logging, call something; None where there is nothing."""
    if (package := found.header.get("package")) not in (None, "_global_"):
        return f"is for the package {package}; an experiment is for _global_"
    values = OmegaConf.to_container(found.config, resolve=False)
    hydra = values.get("hydra") if isinstance(values, dict) else None
    if isinstance(hydra, dict) and (unknown := sorted(set(map(str, hydra)) - set(HYDRA_KEYS))):
        return f"sets hydra.{', hydra.'.join(unknown)}; an experiment may set {', '.join(HYDRA_KEYS)}"
    for key in _keys(values):
        if key.rpartition(".")[2] == "_target_" and key != "method._target_":
            return f"sets {key}; an experiment says no more than method._target_"
    defaults = values.get("defaults") if isinstance(values, dict) else None
    placed = [str(entry) for entry in defaults or [] if "@" in str(entry)]  # into another node, such as hydra's
    return f"places {placed[0][:80]}; its defaults have no @" if placed else None


def _keys(values: Any, above: str = "") -> Iterator[str]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield f"{above}{key}"
            yield from _keys(value, f"{above}{key}.")
    elif isinstance(values, list):
        for value in values:
            yield from _keys(value, above)


def _within(config_path: str) -> bool:
    parts = config_path.split("/")
    return parts[0] == GROUP and ".." not in parts


class ExperimentsSearchPath(SearchPathPlugin):
    """Puts the source behind conf/ on Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Hydra calls this once a command."""
        if (found := experiments_folder()) is not None:
            search_path.append("lora-init-bench", f"{GROUP}://{found.parent}")


def register() -> None:
    """Makes Hydra know both."""
    Plugins.instance().register(ExperimentsSource)
    Plugins.instance().register(ExperimentsSearchPath)
