"""What a number was made with: code, versions, hardware, settings; the fingerprint hashes what can change a number."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench
from bench.process.hashes import file_sha256

_STACK = ("torch", "transformers", "peft", "accelerate", "lm-eval", "datasets")
# Of these alone the values are kept: no other variable can move a number, and others hold names and keys.
VARIABLES = tuple(
    "ACCELERATE_MIXED_PRECISION ATEN_CPU_CAPABILITY CUBLAS_WORKSPACE_CONFIG CUDA_DEVICE_ORDER CUDA_LAUNCH_BLOCKING "
    "CUDA_VISIBLE_DEVICES HF_HUB_OFFLINE MKL_CBWR MKL_NUM_THREADS NCCL_ALGO NCCL_PROTO NVIDIA_TF32_OVERRIDE "
    "OMP_NUM_THREADS OPENBLAS_NUM_THREADS PYTHONHASHSEED PYTORCH_CUDA_ALLOC_CONF TOKENIZERS_PARALLELISM "
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE WORLD_SIZE".split()
)
_CPUS, _DRIVER = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/version")
LOCK = "requirements.lock"


def environment() -> dict[str, Any]:
    """Code, versions, hardware and settings of this process, as a record keeps them."""
    import torch

    return {
        "code": _code(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in (*_STACK, *_others())},
        "hardware": _hardware(),
        "deterministic": {  # torch's switches that decide whether two runs on one machine are bit-identical
            "algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "fingerprint": fingerprint(),
    }


def fingerprint() -> str:
    """A hash of the versions and hardware that can change a number; with a GPU the host's processor is left out."""
    hardware = _hardware()
    kept = {k: v for k, v in hardware.items() if k != "driver" and (k != "cpu" or not hardware["gpu"])}
    stack = {name: version(name) for name in _STACK} | kept
    return hashlib.sha256(json.dumps(stack, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def code_sha256() -> str:
    """A hash of the package's own modules: only a run that the same code began can be resumed."""
    root = Path(bench.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def command(overrides: Sequence[str]) -> str:
    """The command line of one run, for any machine."""
    return shlex.join(["python", "-m", "bench.run", *overrides])


def _hardware() -> dict[str, Any]:
    import torch

    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "num_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": _driver(),
    }


def _driver() -> str | None:
    found = re.search(r"\d+\.\d+(\.\d+)?", _DRIVER.read_text()) if _DRIVER.is_file() else None
    return found.group() if found else None


@functools.cache
def version(distribution: str) -> str | None:
    """The version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _others() -> tuple[str, ...]:
    """The package's other requirements, by its own metadata."""
    try:
        asked = importlib.metadata.requires("lora-init-bench") or []
    except importlib.metadata.PackageNotFoundError:
        asked = ["hydra-core", "numpy", "pandas", "wandb"]
    names = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in asked if "extra ==" not in text]
    return tuple(name for name in names if name not in _STACK)


def _cpu_name() -> str:
    lines = _CPUS.read_text().splitlines() if _CPUS.is_file() else [f"model name: {platform.processor() or 'unknown'}"]
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


@functools.cache
def _code() -> dict[str, Any]:
    """Version and hash of the package; for a checkout also its commit, lock file, and how files differ from it."""
    root = Path(bench.__file__).parent.parent
    lock = file_sha256(root / LOCK) if (root / LOCK).is_file() else None
    package = {"version": bench.__version__, "sha256": code_sha256(), "lock_sha256": lock}

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
        return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None

    if shutil.which("git") is None or not (root / ".git").exists() or (revision := git("rev-parse", "HEAD")) is None:
        return package | {"revision": None, "dirty": None, "diff_sha256": None}
    others = ("--", ".", ":!results")
    difference = git("status", "--porcelain", *others) or ""
    if difference:
        difference += git("diff", "HEAD", "--binary", *others) or ""
    diff_sha256 = hashlib.sha256(difference.encode()).hexdigest() if difference else None
    return package | {"revision": revision, "dirty": bool(difference), "diff_sha256": diff_sha256}
