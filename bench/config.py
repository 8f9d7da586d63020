"""Run: one cell of the grid, typed and validated before anything is loaded; and its identity."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field, PositiveFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bench.init.store import Cache
from bench.methods.base import AdapterOptions, LearningRates, Method, Rank
from bench.methods.find import method_class
from bench.methods.svd import SVDSettings
from bench.model.load import Model
from bench.process.redact import localised
from bench.process.validation import ConfigError, check_plain, one_line
from bench.runs.checkpoint import Checkpointing
from bench.runs.identity import Texts, kept, method_identity, plain_value, written
from bench.runs.names import checked_name, checked_study
from bench.runs.record import Record, identity_digest
from bench.runs.renamed import modern
from bench.runs.tracking import Track
from bench.score import Scoring
from bench.tasks import Task
from bench.train import Train
from bench.train.probe import Measure

LONGEST_NAME = 40  # bytes; four of them, the seed and a hash make a run's id, which is a folder


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Data:
    """The `data` key: a local folder of FOLDER/SPLIT.jsonl, read instead of the Hub by tasks with public data."""

    root: Path | None


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Execution:
    """The `run` key: how a command treats a run; nothing of it can change a number, and no record holds it.

    Attributes:
        retry_failed: do again what has failed.
        isolate: in a process of its own, so that one that is killed leaves a record and the others alone.
        when_running: elsewhere: skip the run, or wait until it has ended there.
        heartbeat_timeout_seconds: seconds without a heartbeat after which the lease holder is presumed dead and the run
            may be taken over.
    """

    retry_failed: bool = False
    isolate: bool = False
    when_running: Literal["skip", "wait"] = "skip"
    heartbeat_timeout_seconds: PositiveFloat = 60.0


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Run:
    """One cell: method × rank × task × model × seed, and everything else that it depends on."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    study: str
    results_dir: Path
    method_name: str
    method: Any
    rank: Rank
    adapter: AdapterOptions
    task: Task
    model: Model
    train: Train
    measure: Measure
    score: Scoring
    track: Track
    data: Data
    svd: SVDSettings
    cache: Cache
    run: Execution = Execution()
    checkpoint: Checkpointing = Checkpointing()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Run:
        """Builds a Run from a resolved configuration.

        Args:
            config: plain containers, with the keys of conf/config.yaml.

        Raises:
            ConfigError: an unknown key, a wrong value, or a combination that has no meaning.
        """
        if not isinstance(config, Mapping) or not isinstance(config.get("method", {}), Mapping):
            raise ConfigError("a configuration is a mapping, and so is its method; conf/config.yaml has the keys")
        check_plain(config)
        try:
            values, renamed = modern(config)
            for note in renamed:
                warnings.warn(note, stacklevel=2)
            chosen = dict(values.pop("method", {}))
            values["method_name"] = chosen.pop("name", None)
            values["method"] = _build_method(chosen)
            run = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise ConfigError(one_line(error)) from None
        run.check()
        return run

    @staticmethod
    def part(key: str, value: Any) -> dict[str, Any]:
        """The fields that one key of a configuration makes, for runs that have it in common: `Run(**fields).check()`.

        Raises:
            ValueError: nothing reads the key, or its value is wrong; `from_config` says so in one line.
        """
        check_plain(value, key)
        if key == "method":
            chosen = dict(value)
            return {"method_name": chosen.pop("name", None), "method": _build_method(chosen)}
        if key not in (adapters := _adapters()):
            raise ConfigError(f"{key}: nothing reads this key; check its spelling")
        return {key: adapters[key].validate_python(value)}

    def check(self) -> None:
        """Refuses what no part of a configuration tells by itself.

        Raises:
            ConfigError: a combination that has no meaning, or a name that is none of a folder.
        """
        self._check_names()
        if self.trains and self.train.learning_rate is None:
            raise ConfigError(f"method={self.method_name} needs a learning rate: train.learning_rate=1e-3")
        self._check_options()
        self._check_model()

    def _check_names(self) -> None:
        """Refuses names that lead out of the results folder; they make the run's id, which names its folder."""
        named = {"method": self.method_name, "rank": self.rank.name, "task": self.task.name, "model": self.model.name}
        try:
            for group, name in named.items():
                checked_name(name, f"{group}.name", longest=LONGEST_NAME)
            checked_study(self.study)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    @classmethod
    def from_record(cls, record: Record) -> Run:
        """The run that a record is of, with the folders of this machine.

        Raises:
            ConfigError: as `from_config`.
        """
        return cls.from_config(modern(localised(record.config.model_dump()))[0])

    def _check_options(self) -> None:
        """Refuses DoRA and LoRA+ for methods to which they do not apply, rather than ignore them."""
        trains = self.method.trains
        if self.adapter.use_dora and not trains & {"lora_A", "lora_B"}:
            raise ConfigError(
                f"adapter.use_dora=true needs a method that trains lora_A or lora_B, and {self.method_name} trains "
                f"{', '.join(sorted(trains)) or 'nothing'}"
            )
        if self.adapter.loraplus_lr_ratio is not None and not trains >= {"lora_A", "lora_B"}:
            raise ConfigError(
                f"adapter.loraplus_lr_ratio={self.adapter.loraplus_lr_ratio:g} needs a method that trains lora_A and "
                f"lora_B, and {self.method_name} trains {', '.join(sorted(trains)) or 'nothing'}"
            )

    def _check_model(self) -> None:
        """Refuses a task that the model's kind has no form for, code to be run unasked, and a half-precision head."""
        try:
            kind = self.model.found_kind
            self.task.check(kind)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if self.train.parallel == "fsdp" and kind == "seq2seq":
            # torch 2.13: "shared with a parameter already managed by another FSDP group"
            raise ConfigError(
                "train.parallel=fsdp cannot shard a sequence-to-sequence model, whose encoder and decoder share their "
                "embeddings; take train.parallel=ddp"
            )
        runs_code = [name for name in self.task.score if self.task.datasets[name].runs_code]
        if runs_code and not self.score.confirm_run_unsafe_code:
            raise ConfigError(
                f"{', '.join(runs_code)} runs code that a model wrote: say score.confirm_run_unsafe_code=true, and do "
                "so in a sandbox"
            )
        if kind == "encoder" and self.model.dtype != "float32":
            raise ConfigError(
                f"model.dtype={self.model.dtype}: an encoder's head is trained in float32, and so must be what the "
                "encoder gives it; take model.dtype=float32, with train.precision=bf16 for speed"
            )

    @property
    def trains(self) -> bool:
        """Whether the method trains anything."""
        return bool(self.method.trains)

    @property
    def tags(self) -> list[str]:
        """The axes that apply to this run, as tags: "hu", "r8", "gsm_tiny", "tiny_llama", "seed 0", "lr 0.01"."""
        rank = [self.rank.name] if self.method.has_adapter else []
        trained = [f"seed {self.seed}", f"lr {self.train.learning_rate:g}"] if self.trains else []
        return [self.method_name, *rank, self.task.name, self.model.name, *trained]

    @property
    def learning_rates(self) -> LearningRates:
        """What a method may know of the schedule."""
        return LearningRates(
            peak=self.train.learning_rate or 0.0,
            first=self.train.first_learning_rate(),
            calibration=self.train.first_learning_rate(self.task.calibration_batch_size),
        )

    def to_dict(self) -> dict[str, Any]:
        """The whole configuration as plain values, for the record, without how a command treats the run."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _OF_THE_COMMAND}
        values["method"] = {"name": values.pop("method_name")} | method_identity(self.method)
        return json.loads(json.dumps(values, default=plain_value))

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that can change the run's numbers, and nothing else.

        No paths, no tracking, no study, no cache. Axes that the method ignores are left out: the rank where no adapter
        is added, calibration where no statistics are required, the svd key where nothing is decomposed, rank, seed and
        training where nothing is trained; there the seed counts that draws an encoder's head.
        """
        return {key: json.loads(text) for key, (text, _) in self._identity_texts().items()}

    @functools.cached_property
    def run_id(self) -> str:
        """A readable name and a hash of the identity: 'hu-r8-gsm_tiny-tiny_llama-s0-1a2b3c4d'."""
        texts = self._identity_texts()
        parts = [self.method_name, self.rank.name if "rank" in texts else "", self.task.name, self.model.name]
        parts.append(f"s{self.seed}" if "seed" in texts else "")
        whole = "{" + ", ".join(f'"{key}": {texts[key][1]}' for key in sorted(texts)) + "}"
        return "-".join([part for part in parts if part] + [identity_digest(whole)])

    def _identity_texts(self) -> dict[str, Texts]:
        """The identity as JSON, key by key; what runs have in common is written once for all of them."""
        method, split, trains = self.method, self.score.split, self.trains
        calibrates = bool(method.requires)
        texts = {
            "method": written(method, "identity", lambda: method_identity(method)),
            "task": written(self.task, (trains, split, calibrates), lambda: self._task_identity(calibrates)),
            "model": written(self.model, "identity", self.model.identity),
            "score": written(self.score, "identity", self.score.identity),
        }
        if trains:
            texts |= {"seed": (str(self.seed),) * 2}
            texts["train"] = written(self.train, "identity", self.train.identity)
            texts["measure"] = written(self.measure, "identity", lambda: self.measure)
        elif self.model.found_kind == "encoder":
            texts["seed"] = (str(self.seed),) * 2
        adapts, decomposes, sketched = kept(method, "kinds", lambda: _kinds(method))
        if adapts:
            rank = self.rank
            texts["rank"] = written(rank, "identity", lambda: {"r": rank.r, "lora_alpha": rank.lora_alpha})
            texts["adapter"] = written(self.adapter, "identity", self.adapter.identity)
        if decomposes:
            texts["svd"] = written(self.svd, sketched, lambda: self.svd.identity(sketched))
        return texts

    def _task_identity(self, calibrates: bool) -> dict[str, Any]:
        task = self.task.identity(self.trains, self.score.split)
        return task if calibrates else {key: value for key, value in task.items() if not key.startswith("calibration")}


def _kinds(method: Method) -> tuple[bool, bool, bool]:
    """Whether a method adds an adapter, decomposes something, and does so in a sketch."""
    return method.has_adapter, bool(method.decomposes), method.sketches


@functools.cache
def _adapters() -> dict[str, TypeAdapter[Any]]:
    """What validates each field of a Run but the method's."""
    hints = get_type_hints(Run, include_extras=True)
    return {name: TypeAdapter(hint) for name, hint in hints.items() if name not in ("method", "method_name")}


def _build_method(chosen: dict[str, Any]) -> Method:
    """The method that `_target_` names, with the other keys as its fields."""
    target = chosen.pop("_target_", None)
    if not isinstance(target, str):
        raise ConfigError("the method has no _target_; choose one of conf/method with method=NAME")
    try:
        return method_class(target)(**chosen)
    except ValidationError as error:
        raise ConfigError(one_line(error, prefix="method.")) from None
    except (ValueError, TypeError) as error:  # TypeError: a class of another's that checks nothing
        raise ConfigError(str(error).splitlines()[0]) from None


_OF_THE_COMMAND = ("run", "checkpoint")
