"""experiments/ as a source of configurations: `+experiments=demo` is found from any folder, also in a wheel."""

from __future__ import annotations

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from bench.folders import EXPERIMENTS as GROUP
from bench.folders import experiments_folder


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

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """What a group holds."""
        if config_path == "":
            return [] if results_filter is ObjectType.CONFIG else [GROUP]
        return super().list(config_path, results_filter)


def _within(config_path: str) -> bool:
    return config_path.split("/", maxsplit=1)[0] == GROUP


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
