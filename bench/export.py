"""A finished run for other tools: `python -m bench.export RUN_DIR --to OUT` writes a standard PEFT LoRA adapter for the
unmodified pretrained model, `--merged` whole weights.

A shifted base and a matrix between A and B are this suite's business; PEFT knows s B A alone. So a shifted adapter
becomes the difference of products B A - B0 A0, of rank 2r, and R is folded into B.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config import Run
from bench.process.environment import quiet_environment
from bench.runs.record import COMPLETED, WEIGHTS, read_record

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bench.methods.base import Factors
    from bench.model.adapter import AdaptedLayer
    from bench.model.weights import Saved


# PEFT's names for the kinds of model.
TASK_TYPES = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "encoder": "SEQ_CLS"}


@dataclass(frozen=True)
class Restored:
    """A run's model as it stood after training, in float32 masters, ready to be used or trained on."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: list[AdaptedLayer]
    initial: dict[str, Factors]


def finished_run(folder: Path) -> Run:
    """The configuration of a completed run whose weights are there.

    Raises:
        ValueError: the folder holds no such run; the message says what is missing.
    """
    record = read_record(folder)
    if record.status != COMPLETED:
        raise ValueError(f"{folder} holds a run that failed: {record.error}")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}, which are not committed: do the run again")
    return Run.from_record(record)


def restore(folder: Path) -> Restored:
    """The trained model of a run: pretrained weights, and everything that the run saved, without loss.

    Raises:
        ValueError: no finished run, or the pretrained model is no longer the one that was trained.
    """
    from bench.model import adapter, weights

    cfg, trained_from = finished_run(folder), read_record(folder).model.revision
    loaded = cfg.model.load(cfg.task.num_labels, cfg.seed)
    if loaded.revision != trained_from:
        raise ValueError(f"the run started from {trained_from}, but model.path={cfg.model.path} is {loaded.revision}")
    layers = adapter.target_layers(loaded.model, cfg.model.target_modules)
    saved = weights.Saved.read(folder / WEIGHTS)
    model, adapted, initial = weights.load(saved, loaded.model, cfg.method, cfg.rank, layers, cfg.adapter)
    return Restored(model, loaded.tokenizer, adapted, initial)


def write_merged(folder: Path, to: Path) -> None:
    """Writes the trained model as save_pretrained does, each adapter added to its weight, and the tokenizer."""
    restored = restore(folder)
    model: Any = restored.model
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    merged.save_pretrained(to)
    restored.tokenizer.save_pretrained(to)


def write_adapter(folder: Path, to: Path) -> None:
    """Writes adapter_model.safetensors and adapter_config.json; the pretrained weights are not read.

    Raises:
        ValueError: the run trained no adapter.
    """
    from peft import LoraConfig, get_peft_model
    from torch import nn

    from bench.model import adapter
    from bench.model.weights import Saved

    cfg, saved = finished_run(folder), Saved.read(folder / WEIGHTS)
    parts = {name: _plain(saved, name, shifted=cfg.method.keeps_function) for name in saved.names}
    if not parts:
        raise ValueError(f"method={cfg.method_name} trains no adapter; --merged writes its weights")
    ranks = {name: len(tensors["lora_A"]) for name, tensors in parts.items()}
    r = max(set(ranks.values()), key=list(ranks.values()).count)
    other = {name: rank for name, rank in ranks.items() if rank != r}
    skeleton = cfg.model.skeleton(cfg.task.num_labels)
    heads = adapter.heads(skeleton)
    config = LoraConfig(
        r=r,
        lora_alpha=saved.scaling * r,  # type: ignore[arg-type]  # PEFT says int and takes any number
        rank_pattern=other,
        alpha_pattern={name: saved.scaling * rank for name, rank in other.items()},
        target_modules=list(ranks),
        use_dora=cfg.adapter.use_dora,
        task_type=TASK_TYPES[cfg.model.found_kind],
        modules_to_save=list(heads) or None,
        revision=cfg.model.revision,
        base_model_name_or_path=cfg.model.path if cfg.model.source == "hub" else str(cfg.model.folder),
    )
    model: Any = get_peft_model(skeleton, config, low_cpu_mem_usage=True)
    plain = model.base_model.model
    for name, tensors in parts.items():
        module = plain.get_submodule(name)
        for part, tensor in tensors.items():
            getattr(module, part)[adapter.ADAPTER].weight = nn.Parameter(tensor, requires_grad=False)
    for name in heads:
        trained = {key.removeprefix(f"{name}."): t for key, t in saved.trained.items() if key.startswith(f"{name}.")}
        plain.get_submodule(name).modules_to_save[adapter.ADAPTER].load_state_dict(trained, assign=True)
    model.save_pretrained(str(to), save_embedding_layers=False)


def _plain(saved: Saved, name: str, shifted: bool) -> dict[str, Tensor]:
    """A layer's A, B and DoRA magnitudes, such that the pretrained W and s B A make the trained layer."""
    import torch

    parts, start = saved.parts(name), saved.initial(name)
    A, B = parts["lora_A"], parts["lora_B"]
    if "lora_R" in parts:
        B = B @ parts.pop("lora_R")
    if shifted and not start.vanishes():
        A, B = torch.cat([A, start.lora_A]), torch.cat([B, -start.lora_B], dim=1)
    return parts | {"lora_A": A, "lora_B": B.contiguous()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; what cannot be exported is answered in one line."""
    parser = argparse.ArgumentParser(prog="python -m bench.export", description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="results/STUDY/RUN_ID of a finished run")
    parser.add_argument("--to", type=Path, required=True, metavar="OUT", help="folder to write; must be empty or new")
    parser.add_argument("--merged", action="store_true", help="whole weights instead of an adapter")
    chosen = parser.parse_args(arguments)
    quiet_environment()
    try:
        if chosen.to.exists() and (not chosen.to.is_dir() or any(chosen.to.iterdir())):
            raise ValueError(f"--to {chosen.to} exists and is not an empty folder; choose another")
        (write_merged if chosen.merged else write_adapter)(chosen.run, chosen.to)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'merged weights' if chosen.merged else 'PEFT adapter'} in {chosen.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
