"""Writes a finished run as a standard PEFT LoRA adapter for the unmodified pretrained model, or as whole weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config import Run
from bench.process import command
from bench.process.files import set_usual_mode, write_whole
from bench.runs.record import COMPLETED, WEIGHTS, read_record
from bench.study.named import RUN_HELP, add_results_dirs, run_folder

if TYPE_CHECKING:
    from bench.model.export import Restored


def finished_run(folder: Path) -> Run:
    """The configuration of a completed run whose weights are there.

    Raises:
        ValueError: the folder holds no such run.
    """
    record = read_record(folder)
    if record.status != COMPLETED:
        raise ValueError(f"{folder} holds a run that failed: {record.error}")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}, which are not committed: do the run again")
    return Run.from_record(record)


def restore(folder: Path | str) -> Restored:
    """The trained model of a run: the pretrained weights and everything that the run saved, without loss.

    Args:
        folder: runs/STUDY/RUN_ID.

    Raises:
        ValueError: no finished run, or the pretrained model is no longer the one that was trained.
    """
    from bench.model.export import restored

    folder = Path(folder)
    cfg = finished_run(folder)
    loaded = cfg.model.load(cfg.task.num_labels, cfg.seed, cfg.cache)
    if loaded.revision != (trained_from := read_record(folder).model.revision):
        raise ValueError(f"the run started from {trained_from}, but model.path={cfg.model.path} is {loaded.revision}")
    return restored(folder / WEIGHTS, loaded, cfg.model.target_modules, cfg.method, cfg.rank, cfg.adapter, cfg.system)


def write_adapter(folder: Path, to: Path) -> None:
    """Writes adapter_model.safetensors, adapter_config.json and a model card; the pretrained weights are not read.

    Raises:
        ValueError: no finished run, or one that trained no adapter.
    """
    from bench.model.export import save_adapter
    from bench.report.card import model_card

    cfg = finished_run(folder)
    if not cfg.method.has_adapter:
        raise ValueError(f"method={cfg.method_name} trains no adapter; --merged writes its weights")
    save_adapter(folder / WEIGHTS, cfg.model, cfg.task.num_labels, cfg.method.keeps_function, cfg.adapter.use_dora, to)
    write_whole(to / "README.md", model_card(read_record(folder)))  # PEFT's has gaps, and the base model's folder


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status, 2 if the run cannot be exported."""
    parser = command.parser("export", __doc__)
    add_results_dirs(parser)
    parser.add_argument("run", metavar="RUN", help=f"a finished one: {RUN_HELP}")
    parser.add_argument("--to", type=Path, required=True, metavar="OUT", help="folder to write; must be empty or new")
    parser.add_argument("--merged", action="store_true", help="whole weights instead of an adapter")
    return command.main(parser, _write, arguments)


def _write(options: argparse.Namespace) -> None:
    if options.to.exists() and (not options.to.is_dir() or any(options.to.iterdir())):
        raise ValueError(f"--to {options.to} exists and is not an empty folder; choose another")
    folder = run_folder(options.results_dir, options.run)
    if options.merged:
        restore(folder).save_merged(options.to)
    else:
        write_adapter(folder, options.to)
    for path in options.to.glob("*.safetensors"):
        set_usual_mode(path)
    print(f"{'merged weights' if options.merged else 'PEFT adapter'} in {options.to}")


if __name__ == "__main__":
    raise SystemExit(main())
