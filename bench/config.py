"""Run: one cell of the grid, typed and validated before anything is loaded; and its identity."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, NonNegativeInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bench.cache import Cache
from bench.measure import Measure
from bench.methods.base import AdapterMethod, AdapterOptions, LearningRates, Method, Rank, SpectralMethod, sketches
from bench.methods.find import method_class
from bench.model import Model
from bench.score import Scoring
from bench.svd import SVDSettings
from bench.tasks import Task
from bench.track import Track
from bench.train import Train


class ConfigError(ValueError):
    """A configuration that cannot be run; the message is one line with the value, the limit and the remedy."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Data:
    """The `data` key: a local folder of FOLDER/SPLIT.jsonl, read instead of the Hub by tasks with public data."""

    root: Path | None


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Run:
    """One cell: method × rank × task × model × seed, and everything else that it depends on."""

    seed: NonNegativeInt
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

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Run:
        """Builds a Run from a resolved configuration.

        Args:
            config: plain containers, with the keys of conf/config.yaml.

        Raises:
            ConfigError: an unknown key, a wrong value, or a combination that has no meaning.
        """
        try:
            values = dict(config)
            chosen = dict(values.pop("method", {}))
            values["method_name"] = chosen.pop("name", None)
            values["method"] = _build_method(chosen)
            run = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise ConfigError(_one_line(error)) from None
        if run.trains and run.train.learning_rate is None:
            raise ConfigError(f"method={run.method_name} needs a learning rate: train.learning_rate=1e-3")
        run._check_options()
        run._check_model()
        return run

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
    def learning_rates(self) -> LearningRates:
        """What a method may know of the schedule."""
        return LearningRates(
            peak=self.train.learning_rate or 0.0,
            first=self.train.first_learning_rate(),
            calibration=self.train.first_learning_rate(self.task.calibration_batch_size),
        )

    def to_dict(self) -> dict[str, Any]:
        """The whole configuration as plain values, for the record."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["method"] = {"name": values.pop("method_name")} | _method_identity(self.method)
        return json.loads(json.dumps(values, default=_plain))

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that can change the run's numbers, and nothing else.

        No paths, no tracking, no study, no cache. Axes that the method ignores are left out: the rank where no adapter
        is added, calibration where no statistics are required, the svd key where nothing is decomposed, rank, seed and
        training where nothing is trained; there the seed counts that draws an encoder's head.
        """
        task = self.task.identity(self.trains, self.score.split)
        if not self.method.requires:
            task = {key: value for key, value in task.items() if not key.startswith("calibration")}
        identity: dict[str, Any] = {
            "method": _method_identity(self.method),
            "task": task,
            "model": self.model.identity(),
            "score": self.score.identity(),
        }
        if self.trains:
            identity |= {"seed": self.seed, "train": self.train, "measure": self.measure}
        elif self.model.found_kind == "encoder":
            identity["seed"] = self.seed
        if isinstance(self.method, AdapterMethod):
            identity["rank"] = {"r": self.rank.r, "lora_alpha": self.rank.lora_alpha}
            identity["adapter"] = self.adapter.identity()
        if isinstance(self.method, SpectralMethod) and self.method.decomposes:
            identity["svd"] = self.svd.identity(sketches(self.method))
        return json.loads(json.dumps(identity, default=_plain))

    @functools.cached_property
    def run_id(self) -> str:
        """A readable name and a hash of the identity: 'hu-r8-gsm_tiny-tiny_llama-s0-1a2b3c4d'."""
        identity = self.identity
        parts = [self.method_name, self.rank.name if "rank" in identity else "", self.task.name, self.model.name]
        parts.append(f"s{self.seed}" if "seed" in identity else "")
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        return "-".join([part for part in parts if part] + [digest])


def _build_method(chosen: dict[str, Any]) -> Method:
    """The method that `_target_` names, with the other keys as its fields."""
    target = chosen.pop("_target_", None)
    if not isinstance(target, str):
        raise ConfigError("the method has no _target_; choose one of conf/method with method=NAME")
    try:
        return method_class(target)(**chosen)
    except ValidationError as error:
        raise ConfigError(_one_line(error, prefix="method.")) from None
    except (ValueError, TypeError) as error:  # TypeError: a class of another's that checks nothing
        raise ConfigError(str(error).splitlines()[0]) from None


def _method_identity(method: Method) -> dict[str, Any]:
    target = f"{type(method).__module__}.{type(method).__qualname__}"
    return {"_target_": target} | asdict(method)  # type: ignore[call-overload]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} has no place in a configuration")


def _one_line(error: ValidationError, prefix: str = "") -> str:
    """What is wrong, key by key, in one line."""
    lines = []
    for problem in error.errors():
        key = prefix + ".".join(str(part) for part in problem["loc"])
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            lines.append(f"{key}={problem['input']!r}: nothing reads this key; check its spelling")
        elif problem["type"] in ("missing", "missing_argument"):
            lines.append(f"{key} is missing")
        else:
            message = (
                problem["msg"].removeprefix("Value error, ")
                if problem["type"] == "value_error"
                else problem["msg"].lower()
            )
            whole = isinstance(problem["input"], dict)  # which says less than the message, at length
            lines.append(message if whole else f"{key}={problem['input']!r}: {message}")
    return "; ".join(lines)
