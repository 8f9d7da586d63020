"""Loads a model: shipped, from an installed package, a local folder or the Hub; a GGUF file of these is unpacked."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from bench.model import gguf
from bench.model.kinds import CLASSIFIERS, Kind, auto_class, kind_of
from bench.model.places import content_sha256, in_package
from bench.process import hub, rng
from bench.process.environment import quiet
from bench.process.store import Cache
from bench.process.validation import one_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

UNKNOWN = "unknown"  # revision of weights whose origin has none
EMBEDDED = Path(__file__).parent / "embedded"


@plain_dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer.

    Attributes:
        tokenizer: of a vision model, the image processor that prepares its inputs.
        revision: identifies the weights: a hash of the files, or a Hub commit; UNKNOWN if there is neither.
        kind: causal, seq2seq, encoder or vision.
        drawn: names of the tensors that no checkpoint holds, drawn by the seed: those of a head.
        gguf: of a model that was unpacked, its file, whose hash is the revision.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | Any
    revision: str
    kind: Kind = "causal"
    drawn: tuple[str, ...] = ()
    gguf: gguf.Facts | None = None

    @property
    def pad_token_id(self) -> int:
        """The token that fills a batch; images fill nothing."""
        return 0 if self.kind == "vision" else self.tokenizer.pad_token_id

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
        kind: causal, seq2seq, or encoder or vision, which get a classification head; None: read from its config.json.
        source: embedded (a folder of this package), package (of another installed one), local (a folder) or hub.
        path: the folder or GGUF file, a package's name before it, or the repository's name.
        revision: the Hub revision; None for folders.
        target_modules: names of the linear layers that are adapted, or their ends: "query", "attention.output.dense";
            None: every linear layer outside the heads.
        dtype: of the base weights; trainable tensors are always float32.
        attention: transformers' attn_implementation.
        architecture: of a Hub model, model_type and sizes as in its config.json, so that parameters can be counted
            without a network; None reads the model's own.
        gguf_file: of a Hub model, the name of the GGUF file in its repository; None for safetensors.
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
    gguf_file: str | None = None

    @property
    def place(self) -> Path:
        """The model's folder or GGUF file, unless it comes from the Hub.

        Raises:
            ValueError: the folder holds no model.
        """
        if self.source == "package":
            place = in_package(self.path, "model.path")
        else:
            place = EMBEDDED / self.path if self.source == "embedded" else Path(self.path).expanduser()
        if (place if place.suffix == gguf.SUFFIX else place / "config.json").is_file():
            return place
        if place.suffix == gguf.SUFFIX:
            raise ValueError(
                f"model.path={self.path}: there is no file {place}; give a GGUF file, or a folder with one"
            )
        if (file := gguf.found_in(place)) is not None:
            return file
        raise ValueError(
            f"model.path={self.path} is no model folder (no config.json and no GGUF file in {place}); "
            "give a folder that save_pretrained wrote, or a GGUF file"
        )

    @property
    def unpacked_from(self) -> Path | None:
        """The GGUF file that holds the model, downloaded if it is the Hub's; None for safetensors.

        Raises:
            ValueError: the folder holds no model, or the Hub does not give the file.
        """
        if self.source != "hub":
            return self.place if self.place.suffix == gguf.SUFFIX else None
        if self.gguf_file is None:
            return None
        revision = self.pinned().revision
        try:
            return hub.download(self._where(), self.gguf_file, revision)
        except hub.errors() as error:
            raise self._unloaded(error, revision) from error

    @functools.cached_property
    def found_kind(self) -> Kind:
        """The kind that is stated, or that config.json tells.

        Raises:
            ValueError: there is no configuration, or it tells no kind.
        """
        if self.kind is None and self.architecture is None and (file := self.unpacked_from) is not None:
            return gguf.kind_of(file)
        return self.kind or kind_of(self._config().to_dict(), self.path)

    def identity(self) -> dict[str, object]:
        """The settings that can change a run's numbers: the content of the files, not their place.

        Raises:
            ValueError: the folder holds no model, or its kind is unknown.
        """
        if self.source == "hub":
            content = f"{'/'.join(filter(None, (self.path, self.gguf_file)))}@{self.revision}"
        else:
            content = content_sha256(self.place)
        targets = None if self.target_modules is None else sorted(self.target_modules)
        return {
            "content": content,
            "kind": self.found_kind,
            "target_modules": targets,
            "dtype": self.dtype,
            "attention": self.attention,
        }

    def _config(self, cache: Cache = gguf.OFF) -> PretrainedConfig:
        from transformers import AutoConfig

        if self.architecture is not None:
            try:
                return AutoConfig.for_model(**self.architecture)
            except Exception as error:  # whatever transformers makes of any value
                raise ValueError(
                    f"model.architecture describes no model: {type(error).__name__}: {one_line(error)}"
                ) from error
        if (file := self.unpacked_from) is not None:
            found = gguf.config(file, self.dtype, cache)
            found.name_or_path = self.path if self.source == "hub" else str(file)
            return found
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
            return str(self.place)
        hub.ask()
        return self.path

    def pinned(self) -> Model:
        """The model at a commit: of a Hub model whose revision is a branch or a tag, the commit that it is now."""
        if self.source != "hub":
            return self
        return replace(self, revision=hub.commit("model", self.path, self.revision))

    def check_there(self) -> None:
        """Asks whether the Hub or its cache has the model, which is loaded later.

        Raises:
            ValueError: neither has.
        """
        if self.source == "hub" and (why := hub.refusal("model", self.path, self.revision)) is not None:
            raise ValueError(self._not_had(why))

    def skeleton(self, num_labels: int | None = None, cache: Cache = gguf.OFF) -> PreTrainedModel:
        """The model on the meta device: its layers and their shapes, without weights.

        Args:
            num_labels: outputs of a classification head.
            cache: may hold a GGUF file's model unpacked, whose configuration is read sooner than the file's.

        Raises:
            ValueError: as `load`, where no architecture is given.
        """
        import torch

        config = self._config(cache)
        if num_labels is not None:
            config.num_labels = num_labels
        try:
            with torch.device("meta"):
                return auto_class(self.found_kind).from_config(config)
        except ValueError as error:
            raise ValueError(
                f"model {self.path} cannot be had as model.kind={self.found_kind}: {one_line(error)}; set model.kind "
                "to causal, seq2seq, encoder or vision"
            ) from error

    def load(self, num_labels: int | None = None, seed: int = 0, cache: Cache = gguf.OFF) -> LoadedModel:
        """Loads weights, and tokenizer or image processor; a tokenizer without a padding token pads with EOS.

        Args:
            num_labels: outputs of a classification head.
            seed: draws the head, which no checkpoint holds: the same for every method.
            cache: keeps the model of a GGUF file unpacked.

        Raises:
            ValueError: the folder does not exist, the Hub cannot be reached, the checkpoint is not of this model, the
                model does not have this attention, or the tokenizer cannot be used.
        """
        import torch
        from transformers.utils.logging import disable_progress_bar

        from bench.model.layers import mark_drawn
        from bench.model.limits import check_embedded, check_tokenizer, share_padding
        from bench.model.pretrained import drawn_tensors, read_processor, read_weights

        disable_progress_bar()  # of loading; calibration, training and scoring draw their own
        kind, revision = self.found_kind, self.pinned().revision
        file = self.unpacked_from
        head = {"num_labels": num_labels} if kind in CLASSIFIERS and num_labels is not None else {}
        with nullcontext((self._where(), None)) if file is None else gguf.unpacked(file, self.dtype, cache) as found:
            where, facts = found
            try:
                tokenizer = read_processor(where, revision, kind, self.path)
            except hub.errors() as error:
                raise self._unloaded(error, revision) from error
            try:
                with rng.preserved(), quiet("transformers"):  # whose report is judged here
                    torch.manual_seed(rng.derive(seed, "head"))
                    model, report = read_weights(
                        where, revision, kind, self.path, dtype=self.dtype, attn_implementation=self.attention, **head
                    )
            except hub.errors() as error:
                raise self._unloaded(error, revision) from error
            except (ValueError, ImportError) as error:
                if self.attention == "eager" or self._builds(self.attention) or not self._builds("eager"):
                    raise
                raise ValueError(
                    f"model.attention={self.attention} cannot be had for {self.path}: {one_line(error):.120}; "
                    "set model.attention=eager"
                ) from error
        mark_drawn(model, drawn := drawn_tensors(model, report, self.path))
        if kind != "vision":
            check_tokenizer(tokenizer, kind, self.path)
            check_embedded(model, tokenizer, self.path)
            share_padding(model, tokenizer, kind)
        if torch.cuda.is_available():
            cast("nn.Module", model).to("cuda")
        if facts is not None:
            revision = facts.sha256
        elif self.source != "hub":
            revision = content_sha256(self.place)
        elif not revision or not hub.COMMIT.fullmatch(revision):
            revision = UNKNOWN
        return LoadedModel(model, tokenizer, revision, kind, tuple(drawn), facts)

    def _unloaded(self, error: Exception, revision: str | None) -> ValueError:
        if self.source != "hub":
            return ValueError(f"model.path={self.path} cannot be loaded: {one_line(error)}")
        return ValueError(self._not_had(hub.reason(error, "model", self.path, revision)))

    def _not_had(self, why: str) -> str:
        return (
            f"model {self.path} cannot be loaded from the Hub: {why}; or give a local folder: model=local "
            "model.path=FOLDER"
        )

    def _builds(self, attention: str) -> bool:
        import torch

        try:
            with torch.device("meta"):
                auto_class(self.found_kind).from_config(self._config(), attn_implementation=attention)
        except (ValueError, ImportError):
            return False
        return True
