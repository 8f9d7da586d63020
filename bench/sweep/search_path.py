"""What is on Hydra's search path behind conf/: experiments/, found from any folder, and the folders of --config-dir."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from bench.process.config_dirs import config_dirs
from bench.runs.renamed import modern
from bench.study.folders import EXPERIMENTS as GROUP
from bench.study.folders import experiments_folder
from bench.sweep.arguments import OF_EXPERIMENTS, keys_of, names_code


class ExperimentsSource(ConfigSource):
    """The files of one folder's experiments/, and nothing else in that folder."""

    @staticmethod
    def scheme() -> str:
        """As in `experiments:///path/to/the/folder/above`."""
        return GROUP

    def available(self) -> bool:
        """Whether the folder has experiments/."""
        return self._path(GROUP).is_dir()

    def is_group(self, config_path: str) -> bool:
        """Whether it is experiments/ or a folder in it."""
        return config_path == "" or (_within(config_path) and self._path(config_path).is_dir())

    def is_config(self, config_path: str) -> bool:
        """Whether it is a file in experiments/."""
        return _within(config_path) and self._file(config_path).is_file()

    def load_config(self, config_path: str) -> ConfigResult:
        """A file, whose keys are the configuration's own whatever its @package says; it may name no code to call.

        Raises:
            ConfigCompositionException: it does.
        """
        values: Any = OmegaConf.to_container(OmegaConf.load(self._file(config_path)))
        if named := [key for key in keys_of(values) if names_code(key, in_experiment=True)]:
            raise ConfigCompositionException(
                f"experiments: {config_path} sets {named[0]}; an experiment names code by method._target_ only, and of "
                f"hydra it sets {', '.join(OF_EXPERIMENTS)}"
            )
        defaults = (values or {}).get("defaults") or []
        if placed := [str(entry) for entry in defaults if "@" in str(entry)]:  # into another node, as hydra's
            raise ConfigCompositionException(f"experiments: {config_path}: its defaults have no @: {placed[0][:80]}")
        values, notes = modern(values or {})
        for note in notes:
            warnings.warn(f"{config_path}: {note}", stacklevel=1)
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(values), {"package": "_global_"})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The names in a group."""
        if config_path == "":
            return [] if results_filter is ObjectType.CONFIG else [GROUP]
        inside = tuple(self._path(config_path).iterdir())
        groups = {path.name for path in inside if path.is_dir() and results_filter is not ObjectType.CONFIG}
        files = {path.stem for path in inside if path.suffix == ".yaml" and results_filter is not ObjectType.GROUP}
        return sorted(groups | files)

    def _path(self, config_path: str) -> Path:
        return Path(self.path, config_path)

    def _file(self, config_path: str) -> Path:
        return self._path(f"{config_path.removesuffix('.yaml')}.yaml")


def _within(config_path: str) -> bool:
    parts = config_path.split("/")
    return parts[0] == GROUP and ".." not in parts


class OwnSearchPath(SearchPathPlugin):
    """Puts experiments/ and the folders of --config-dir behind conf/ on Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Hydra calls this once a command."""
        if (found := experiments_folder()) is not None:
            search_path.append("lora-init-bench", f"{GROUP}://{found.parent}")
        for folder in config_dirs():  # experiments through the source above, which lets them name no code
            search_path.append("--config-dir", f"{GROUP}://{folder}")
            search_path.append("--config-dir", f"file://{folder}")


def register() -> None:
    """Adds both to Hydra."""
    Plugins.instance().register(ExperimentsSource)
    Plugins.instance().register(OwnSearchPath)
