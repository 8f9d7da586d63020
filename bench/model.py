"""Where a model comes from: shipped with the package, a local folder, or the Hugging Face Hub."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNKNOWN = "unknown"  # the revision of weights whose origin does not tell
EMBEDDED = Path(__file__).parent / "embedded"


@plain_dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer, and where exactly they came from: a hash of the files, or a Hub commit."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    revision: str


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Model:
    """conf/model/*.yaml.

    Attributes:
        name: what the tables call it.
        source: embedded (a folder of this package), local (a folder) or hub (a repository).
        path: the folder, or the repository's name.
        revision: the Hub revision; None for folders.
        target_modules: last names of the linear layers that are adapted.
        dtype: of the base weights; trainable tensors are float32 whatever it is.
        architecture: of a Hub model, model_type and sizes as in its config.json, so that parameters can be counted
            without a network; None reads the model's own.
    """

    name: str
    source: Literal["embedded", "local", "hub"]
    path: str
    revision: str | None
    target_modules: tuple[str, ...]
    dtype: Literal["float32", "bfloat16"]
    architecture: dict[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """Where an embedded or local model lies.

        Raises:
            ValueError: there is no model there.
        """
        folder = EMBEDDED / self.path if self.source == "embedded" else Path(self.path).expanduser()
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"model.path={self.path} is no model folder (no config.json in {folder}); "
                "give a folder that save_pretrained wrote"
            )
        return folder

    def identity(self) -> dict[str, object]:
        """What of this can change a run's numbers: not where the files lie, but what they hold."""
        content = f"{self.path}@{self.revision}" if self.source == "hub" else folder_sha256(self.folder)
        return {"content": content, "target_modules": sorted(self.target_modules), "dtype": self.dtype}

    def skeleton(self) -> PreTrainedModel:
        """The model on the meta device: its layers and their shapes, without weights.

        Raises:
            ValueError: as `load`, where no architecture is given.
        """
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        if self.architecture is None:
            where = self.path if self.source == "hub" else str(self.folder)
            try:
                config = AutoConfig.from_pretrained(where, revision=self.revision)
            except OSError as error:
                raise ValueError(
                    f"model {self.path} has no model.architecture, and its configuration cannot be had: {error}"
                ) from error
        else:
            config = AutoConfig.for_model(**self.architecture)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)

    def load(self) -> LoadedModel:
        """Loads weights and tokenizer; a tokenizer without a padding token pads with EOS.

        Raises:
            ValueError: the folder does not exist, or the Hub cannot be reached.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of loading; calibration, training and scoring draw their own
        where = self.path if self.source == "hub" else str(self.folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, revision=self.revision, padding_side="left")
            model = AutoModelForCausalLM.from_pretrained(where, revision=self.revision, dtype=self.dtype)
        except OSError as error:
            if self.source != "hub":
                raise ValueError(f"model.path={self.path} cannot be loaded: {error}") from error
            raise ValueError(
                f"model {self.path} cannot be loaded from the Hub and is not in its cache; without a network give a "
                "local folder: model=local model.path=FOLDER"
            ) from error
        if torch.cuda.is_available():
            cast("nn.Module", model).to("cuda")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        revision = getattr(model.config, "_commit_hash", None) or UNKNOWN
        return LoadedModel(model, tokenizer, revision if self.source == "hub" else folder_sha256(self.folder))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; every module is left in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def folder_sha256(folder: Path) -> str:
    """A hash of a model folder's configuration, tokenizer and weights, whatever the folder is called."""
    kept = (".safetensors", ".json", ".bin", ".model", ".txt")
    files = [path for path in sorted(folder.iterdir()) if path.suffix in kept and path.name != "recipe.json"]
    return _files_sha256(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@functools.cache
def _files_sha256(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Read once a process: a sweep asks for the same gigabytes in every cell. Size and time of change are the key."""
    digest = hashlib.sha256()
    for path, _size, _changed in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
