"""Preregistration: hashes of what a study asks and how it will answer, taken before its runs and kept in their records.

A change of the claims, their margins, the seeds or the rule of learning rates after the first run has another hash; the
study's tables name it. Comments and the order of keys count for nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.process.config_dirs import config_dirs
from bench.process.hashes import values_sha256
from bench.runs.record import Record
from bench.study.folders import CONF, experiment_file, experiments_folder

CLAIMS = "_claims.yaml"
STUDY, PROTOCOL, CLAIMED = "study", "protocol", "claims"
_GROUP = "/protocol"
_DIGITS = 12


def registration(experiment: str | None) -> dict[str, str]:
    """The hashes of an experiment's file, of the protocol that it lists, and of the claims that it answers.

    Args:
        experiment: below the folder of experiments, without .yaml; without one, or where it is not there, nothing is
            registered.
    """
    path = None if experiment is None else experiment_file(experiment)
    if path is None:
        return {}
    folder = experiments_folder()
    study = _read(path)
    protocols = [one[_GROUP] for one in study.get("defaults", []) if isinstance(one, dict) and _GROUP in one]
    parts = {STUDY: study}
    if protocols:
        parts[PROTOCOL] = [_read(_protocol(name)) for name in protocols]
    claims = _read(folder / CLAIMS) if folder is not None and (folder / CLAIMS).is_file() else []
    if own := [claim for claim in claims if _asks(claim, experiment)]:
        parts[CLAIMED] = own
    return {name: values_sha256(content)[:_DIGITS] for name, content in parts.items()}


def _protocol(name: str) -> Path:
    """The file of a protocol, the suite's or one in a folder of --config-dir."""
    files = (folder / "protocol" / f"{name}.yaml" for folder in (CONF, *config_dirs()))
    return next(path for path in files if path.is_file())


def _asks(claim: dict[str, Any], experiment: str | None) -> bool:
    """Whether a claim is asked of a study, alone or with others."""
    asked = claim.get("study")
    return experiment in asked if isinstance(asked, list) else experiment == asked


def _read(path: Path) -> Any:
    return _parsed(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _parsed(path: Path, _changed: int) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def registered(records: Sequence[Record], now: dict[str, str]) -> str:
    """What was registered before a study's first run, and what was changed since; "" where nothing was.

    Args:
        records: of the study.
        now: the hashes of its files as they are.
    """
    ordered = sorted((record for record in records if record.registration), key=_began)
    if not ordered:
        return ""
    first = ordered[0].registration
    parts = ", ".join(f"{name} {digest}" for name, digest in first.items())
    text = f"Registered before the first run, {_began(ordered[0])[:10]}: {parts}."
    for name in dict.fromkeys((*first, *now)):
        later = [record for record in ordered if record.registration.get(name) != first.get(name)]
        if later:
            text += f" The {name} changed before {len(later)} of {len(records)} runs."
        elif now.get(name) != first.get(name):
            text += f" The {name} changed after the last run."
    return text


def _began(record: Record) -> str:
    return str(next((attempt.get("started") for attempt in record.attempts if attempt.get("started")), ""))
