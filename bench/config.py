"""Run: one cell of the grid, typed and validated before anything is loaded, and the identity that names it."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, TypeAdapter
from pydantic.dataclasses import dataclass

from bench.methods.base import AdapterOptions, LearningRates, Rank
from bench.methods.find import method_class
from bench.methods.svd import SVDSettings
from bench.model.kinds import CLASSIFIERS
from bench.model.load import Kind, Model
from bench.process.redact import localised, portable, without_secrets
from bench.process.store import Cache
from bench.process.validation import one_line
from bench.runs.checkpoint import Checkpointing
from bench.runs.names import checked_name, checked_study
from bench.runs.record import Record, identity_digest
from bench.runs.record_parts import CurvatureFacts
from bench.runs.renamed import modern
from bench.runs.tracking import Track
from bench.score import Retention, Scoring
from bench.study.folders import CONF
from bench.systems.base import Host
from bench.systems.find import system_class
from bench.systems.none import NoSystem
from bench.tasks import Task
from bench.train import Train
from bench.train.curvature import centre
from bench.train.probe import Measure
from bench.train.settings import AUTO

LONGEST_NAME = 40  # bytes; four of them, the seed and a hash make a run's id, which is a folder
LONGEST_MESSAGE = 2000  # characters
_OF_THE_COMMAND = ("run", "checkpoint")  # keys that change how a command works and no result; not recorded
NO_SYSTEM_KEYS = {"name": "none", "_target_": "bench.systems.none.NoSystem"}
_NOT_RECORDED = (*_OF_THE_COMMAND, "resolved_rate")


class ConfigError(ValueError):
    """A configuration that cannot be run; the message is one line with the value, the limit and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split())[:LONGEST_MESSAGE])


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Data:
    """The `data` key: a local folder of FOLDER/SPLIT.jsonl, read instead of the Hub by tasks with public data."""

    root: Path | None


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PublishedRate:
    """An entry of `published_rates` in conf/method: a learning rate, and where it was published, for which model."""

    rate: PositiveFloat
    source: str


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Execution:
    """The `run` key: how a command treats a run. It changes no number and is not recorded.

    Attributes:
        stop_at_step: train to this step of the whole schedule only, take the eval loss there and write a checkpoint,
            from which the run goes on later; None, or a step that training does not reach: do the whole run.
        retry_failed: run again what has failed.
        isolate: run in a new process of its own, which shares nothing with runs before it.
        when_running: what to do with a run that another process holds: skip it, or wait until it has ended.
        heartbeat_timeout_seconds: seconds without a heartbeat after which the process that holds a run is presumed
            dead and the run may be taken over.
        log: what is printed: "info": each run as it begins and ends; "warning": no line a run; "error": no warnings
            either.
    """

    stop_at_step: PositiveInt | None
    retry_failed: bool
    isolate: bool
    when_running: Literal["skip", "wait"]
    heartbeat_timeout_seconds: PositiveFloat
    log: Literal["info", "warning", "error"] = "info"


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Run:
    """One cell of the grid, method × system × rank × task × model × seed, with all else that its result depends on.

    The fields are the keys of conf/config.yaml; learning_rate_source says who published train.learning_rate, where
    nobody gave it and the model is not embedded. With train.learning_rate=auto `with_curvature` gives it a number.
    """

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    study: str
    results_dir: Path
    method_name: str
    method: Any
    system_name: str
    system: Any
    rank: Rank
    adapter: AdapterOptions
    task: Task
    model: Model
    train: Train
    measure: Measure
    score: Scoring
    retention: Retention
    track: Track
    data: Data
    svd: SVDSettings
    cache: Cache
    run: Execution
    checkpoint: Checkpointing
    learning_rate_source: str | None = None
    resolved_rate: float | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Run:
        """Builds a Run from a resolved configuration.

        Args:
            config: plain containers with the keys of conf/config.yaml.

        Raises:
            ConfigError: a key is unknown, a value is wrong, or two values contradict each other.
        """
        if not isinstance(config, Mapping) or not isinstance(config.get("method", {}), Mapping):
            raise ConfigError("a configuration is a mapping, and so is its method; conf/config.yaml has the keys")
        try:
            values, renamed = modern(config)
            for note in renamed:
                warnings.warn(note, stacklevel=2)
            if "resolved_rate" in values:
                raise ConfigError("resolved_rate follows from train.learning_rate=auto and cannot be given")
            chosen = dict(values.pop("method", {}))
            values["method_name"] = chosen.pop("name", None)
            values["method"] = _build("method", chosen, method_class)
            system = dict(values.pop("system", NO_SYSTEM_KEYS))  # a configuration that names none has none
            values["system_name"] = system.pop("name", None)
            values["system"] = _build("system", system, system_class)
            published = values.pop("published_rates", {})
            values.pop("other_names", None)  # of the method, for bench.sweep.choices
            run = TypeAdapter(cls).validate_python(values)
            run = replace(run, model=run.model.pinned(), task=run.task.pinned()).with_a_rate(published)
            run.check()
        except ValueError as error:  # pydantic's ValidationError is one
            raise ConfigError(one_line(error)) from None
        return run

    @classmethod
    def from_record(cls, record: Record) -> Run:
        """The run that a record describes, with this machine's folders and conf/'s defaults for `run` and `checkpoint`.

        What was not measured then is not measured now.

        Raises:
            ConfigError: as `from_config`.
        """
        defaults = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
        config, _ = modern(localised(record.config.model_dump()))
        if record.identity.get("train", {}).get("learning_rate") == AUTO:
            config["train"]["learning_rate"] = AUTO  # the record has the number that it became
            config["learning_rate_source"] = None
        config["score"] = {"loss_samples": 0} | config["score"]
        config = {"retention": {"text": None, "num_tokens": 0}} | config
        return cls.from_config({key: defaults[key] for key in _OF_THE_COMMAND} | config)

    def with_a_rate(self, published: Mapping[str, Any]) -> Run:
        """The run itself or, if it has no learning rate and its model is not embedded, with the published one.

        Args:
            published: `rate` and `source` by kind of model, as conf/method states them.

        Raises:
            ValueError: nothing is published for a model of this kind, or not in this form.
        """
        if not self.trains or self.train.learning_rate is not None or self.model.source == "embedded":
            return self
        kind = self.model.found_kind
        found = TypeAdapter(dict[Kind, PublishedRate]).validate_python(published).get(kind)
        if found is None:
            raise ValueError(
                f"method={self.method_name} needs a learning rate for model={self.model.name}: none is known to be "
                f"published for a model of kind {kind}; say train.learning_rate=RATE, or choose one by a sweep with "
                "score.split=validation and train.learning_rate=1e-5,1e-4,1e-3"
            )
        train = replace(self.train, learning_rate=found.rate)
        return replace(self, train=train, learning_rate_source=f"{found.source} ({kind})")

    def check(self) -> None:
        """Refuses names that cannot be folders, and values that are valid alone but not together.

        Raises:
            ValueError: one of these; an option that does not apply to the method or the model is not ignored.
        """
        named = {
            "method": self.method_name,
            "system": self.system_name,
            "rank": self.rank.name,
            "task": self.task.name,
            "model": self.model.name,
        }
        for group, name in named.items():  # they make the run's id, which names its folder
            checked_name(name, f"{group}.name", longest=LONGEST_NAME)
        checked_study(self.study)
        if self.trains and self.train.learning_rate is None:
            raise ValueError(f"method={self.method_name} needs a learning rate: train.learning_rate=1e-3")
        if self.trains and self.train.chooses_rate:
            self._check_auto()
        if self.trains and (said := self.train.short_of_its_steps):
            warnings.warn(said, stacklevel=2)
        self._check_adapter()
        self._check_system()
        kind = self.model.found_kind
        self.task.check(kind)
        if self.sharded and kind == "seq2seq":
            # torch 2.13: "shared with a parameter already managed by another FSDP group"
            raise ValueError(
                "train.parallel=fsdp cannot shard a sequence-to-sequence model, whose encoder and decoder share their "
                "embeddings; take train.parallel=ddp"
            )
        runs_code = [name for name in self.task.score if self.task.datasets[name].runs_code]
        if runs_code and not self.score.confirm_run_unsafe_code:
            raise ValueError(
                f"{', '.join(runs_code)} runs code that a model wrote: say score.confirm_run_unsafe_code=true, and do "
                "so in a sandbox"
            )
        if kind in CLASSIFIERS and self.model.dtype != "float32":
            raise ValueError(
                f"model.dtype={self.model.dtype}: a classifier's head is trained in float32, and so must be what the "
                "model gives it; take model.dtype=float32, with train.precision=bf16 for speed"
            )

    def _check_adapter(self) -> None:
        trains, does = self.method.trains, ", ".join(sorted(self.method.trains)) or "nothing"
        if self.adapter.use_dora and not trains & {"lora_A", "lora_B"}:
            raise ValueError(
                "adapter.use_dora=true needs a method that trains lora_A or lora_B, and "
                f"{self.method_name} trains {does}"
            )
        if self.adapter.use_dora and trains & {"lora_R", "lora_E"}:
            raise ValueError(
                "adapter.use_dora=true is PEFT's form of W and s B A alone, and "
                f"{self.method_name} trains {does}; take adapter.use_dora=false"
            )
        if self.adapter.loraplus_lr_ratio is not None and not trains >= {"lora_A", "lora_B"}:
            raise ValueError(
                f"adapter.loraplus_lr_ratio={self.adapter.loraplus_lr_ratio:g} needs a method that trains lora_A and "
                f"lora_B, and {self.method_name} trains {does}"
            )

    def _check_system(self) -> None:
        if self.sharded and not self.system.shards:
            raise ValueError(
                f"system={self.system_name} needs a layer's whole tensors, which train.parallel=fsdp shards; take "
                "train.parallel=ddp, or system=none"
            )
        self.system.check(self.host)

    def _check_auto(self) -> None:
        if not self.measure.curvature_rows or self.train.curvature_constant is None:
            raise ValueError(
                "train.learning_rate=auto follows from the curvature at step 0, with train.curvature_constant and "
                "measure.curvature_rows; say measure.curvature_rows=8, or give a rate"
            )
        if self.sharded:
            raise ValueError(
                "train.learning_rate=auto follows from the curvature, which train.parallel=fsdp leaves out; give a "
                "rate, or take train.parallel=ddp"
            )

    def with_curvature(self, found: CurvatureFacts | None) -> Run:
        """The run itself or, with train.learning_rate=auto, with the rate that follows; its identity stays what it was.

        Args:
            found: the curvature at step 0; None where it is not known yet.

        Raises:
            ValueError: the curvature could not be measured, or the loss curves downwards in all directions.
        """
        if not (self.trains and self.train.chooses_rate) or found is None:
            return self
        if found.reason is not None or found.preconditioned is None or found.preconditioned <= 0:
            why = found.reason or f"the largest preconditioned eigenvalue is {found.preconditioned:.3g}"
            raise ValueError(f"train.learning_rate=auto has no curvature to follow ({why}); give a rate")
        constant = cast(float, self.train.curvature_constant)
        source = (
            f"auto: {constant:g} / {found.preconditioned:.4g}, the largest eigenvalue of the preconditioned Hessian at "
            "step 0; the centre of a grid, and not a tuned rate"
        )
        return replace(self, resolved_rate=centre(constant, found.preconditioned), learning_rate_source=source)

    @property
    def schedule(self) -> Train:
        """The settings of training with the learning rate as a number, as soon as it is known."""
        return self.train if self.resolved_rate is None else replace(self.train, learning_rate=self.resolved_rate)

    @property
    def trains(self) -> bool:
        """Whether the method trains anything."""
        return bool(self.method.trains)

    @property
    def measures_curvature(self) -> bool:
        """Whether the curvature at step 0 is asked for."""
        return self.trains and self.measure.curvature_rows > 0

    @property
    def sharded(self) -> bool:
        """Whether training shards the weights."""
        return self.train.parallel == "fsdp"

    @property
    def tags(self) -> list[str]:
        """The axes that apply to this run, as tags: "hu", "r8", "gsm_tiny", "tiny_llama", "seed 0", "lr 0.01"."""
        rank = [self.rank.name] if self.method.has_adapter else []
        trained = [f"seed {self.seed}", f"lr {self.rate}"] if self.trains else []
        return [self.start_name, *rank, self.task.name, self.model.name, *trained]

    @property
    def host(self) -> Host:
        """What a system is told of the run before it is put into it."""
        precision = "bfloat16" if self.train.precision == "bf16" else self.model.dtype
        return Host(self.method_name, self.method, self.rank, self.adapter, self.train.max_steps, precision)

    @property
    def start_name(self) -> str:
        """The method's name and, behind a plus, that of a system: "lora_ga+lora_pro"."""
        return f"{self.method_name}+{self.system_name}" if self.has_system else self.method_name

    @property
    def has_system(self) -> bool:
        """Whether anything beside the start is changed."""
        return not isinstance(self.system, NoSystem)

    @property
    def label(self) -> str:
        """What tables call the run's method and system."""
        return cast(str, self.system.title(self.method))

    @property
    def learning_rates(self) -> LearningRates:
        """The learning rates that a method may use: the peak, the first step's, and that of a calibration batch.

        Zeros while the rate is not known: the curvature that it follows from is that of a start without a step in it.
        """
        return LearningRates(
            peak=self.schedule.peak,
            first=self.schedule.first_learning_rate(),
            calibration=self.schedule.first_learning_rate(self.task.calibration_batch_size),
        )

    @property
    def rate(self) -> str:
        """The learning rate as a text; auto while it is not known."""
        return AUTO if self.schedule.chooses_rate else f"{self.schedule.learning_rate:g}"

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON values for the record, without `run` and `checkpoint`."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NOT_RECORDED}
        number = None if self.schedule.chooses_rate else self.schedule.learning_rate  # null: not known yet
        values["train"] = asdict(self.schedule) | {"learning_rate": number}
        for plugin in ("method", "system"):
            values[plugin] = {"name": values.pop(f"{plugin}_name")} | _settings(values[plugin])
        return _plain(values)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that can change the run's numbers, and nothing else.

        No paths, no tracking, no study, no cache, no retention, which moves no other number. Axes that the
        method ignores are left out: the rank if no adapter is added, calibration if no statistics are required, the svd
        key if nothing is decomposed; rank, seed and training if nothing is trained, except the seed that draws a
        classifier's head. A system enters where there is one.
        """
        method, task = self.method, self.task.identity(self.trains, self.score.split)
        unused = () if method.requires else ("calibration",)
        values: dict[str, Any] = {
            "method": _settings(method),
            "task": {key: value for key, value in task.items() if not key.startswith(unused)},
            "model": self.model.identity(),
            "score": self.score.identity(),
        }
        if self.trains:
            values |= {"seed": self.seed, "train": self.train.identity()}
            values["measure"] = self.measure.identity(self.train.chooses_rate)
        elif self.model.found_kind in CLASSIFIERS:
            values["seed"] = self.seed
        if method.has_adapter:
            values["rank"] = {"r": self.rank.r, "lora_alpha": self.rank.lora_alpha}
            values["adapter"] = self.adapter.identity()
        if self.has_system:
            values["system"] = _settings(self.system)
        if method.decomposes:
            values["svd"] = self.svd.identity(method.sketches)
        return without_secrets(_plain(values))

    @property
    def places(self) -> dict[str, str | None]:
        """Where the run's data and its model are, by key; cells that differ in one of them are different cells."""
        root = "" if self.data.root is None else str(self.data.root.expanduser().absolute())
        model = self.model.path if self.model.source == "hub" else str(self.model.place.absolute())
        places = {"data.root": portable(root), "model.path": portable(model), "model.revision": self.model.revision}
        hubs = {f"task.datasets.{name}.hub": one.hub for name, one in self.task.datasets.items()}
        return places | {key: f"{hub.path}@{hub.revision}" for key, hub in hubs.items() if hub is not None}

    @functools.cached_property
    def run_id(self) -> str:
        """A readable name and a hash of the identity: 'hu-r8-gsm_tiny-tiny_llama-s0-1a2b3c4d'."""
        rank = self.rank.name if "rank" in self.identity else ""
        seed = f"s{self.seed}" if "seed" in self.identity else ""
        parts = (self.start_name, rank, self.task.name, self.model.name, seed, identity_digest(self.identity))
        return "-".join(filter(None, parts))


def _build(group: str, chosen: dict[str, Any], class_of: Callable[[str], type]) -> Any:
    """The method or system that `_target_` names, with the other keys as its fields."""
    target = chosen.pop("_target_", None)
    if not isinstance(target, str):
        raise ConfigError(f"the {group} has no _target_; choose one of conf/{group} with {group}=NAME")
    try:
        return class_of(target)(**chosen)
    except (ValueError, TypeError) as error:  # TypeError: a class of another's that checks nothing
        raise ConfigError(one_line(error, prefix=f"{group}.")) from None


def _settings(plugin: Any) -> dict[str, Any]:
    """The class of a method or system, and all that its configuration sets."""
    target = f"{type(plugin).__module__}.{type(plugin).__qualname__}"
    return {"_target_": target} | asdict(plugin)


def _plain(values: Any) -> Any:
    """The same with dataclasses as dicts and paths as texts, as JSON reads them again."""

    def converted(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        if isinstance(value, Path):
            return str(value)
        raise TypeError(f"{value!r} has no place in a configuration")

    return json.loads(json.dumps(values, default=converted))
