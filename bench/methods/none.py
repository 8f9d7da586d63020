"""The pretrained model as it is: nothing is trained; the lower reference."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from bench.methods.base import STRICT, Method, Trainable


@dataclass(frozen=True, config=STRICT)
class NoTraining(Method):
    """No adapter and no training; rank, seed and training settings have no meaning."""

    label: ClassVar[str] = "Pretrained"
    trains: ClassVar[frozenset[Trainable]] = frozenset()
    keeps_function: ClassVar[bool] = True
