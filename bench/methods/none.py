"""The pretrained model as it is: nothing is trained; the lower reference."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Statistic, Trainable


@dataclass(frozen=True, config=STRICT)
class NoTraining:
    """No adapter and no training; rank, seed and training settings have no meaning."""

    label: ClassVar[str] = "Pretrained"
    requires: ClassVar[frozenset[Statistic]] = frozenset()
    trains: ClassVar[frozenset[Trainable]] = frozenset()
    keeps_function: ClassVar[bool] = True
