"""From what Hydra has composed to a typed run, and all that Hydra must know to compose it: plugins and resolvers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from textwrap import fill
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from bench.process.validation import one_line
from bench.runs.names import study_folder
from bench.study.folders import CONF
from bench.sweep import plugins, search_path
from bench.sweep.arguments import refuse

if TYPE_CHECKING:
    from bench.config import Run

ADHOC = "adhoc"  # the study of runs without an experiment

search_path.register()
plugins.register()


def _by(group: str) -> Callable[..., Any]:
    """${by_method:{hu: 1e-3, full_ft: 5e-5}}: what an experiment pairs with a choice, such as a learning rate."""

    def chosen(table: DictConfig, *, _root_: DictConfig) -> Any:
        name = _root_[group].name
        if name not in table:
            raise ValueError(f"by_{group} has nothing for {group}={name}; it has {', '.join(map(str, table))}")
        return table[name]

    return chosen


for _group in ("method", "system", "rank", "task", "model"):
    OmegaConf.register_new_resolver(f"by_{_group}", _by(_group), replace=True)


def _scaling(of_the_paper: str, *, _root_: DictConfig) -> str:
    """${scaling:alpha_over_r} in conf/method: adapter.scaling, the same for all methods, or else the paper's."""
    return _root_.adapter.scaling or of_the_paper


OmegaConf.register_new_resolver("scaling", _scaling, replace=True)


OmegaConf.register_new_resolver("twice", lambda number: 2 * number, replace=True)


def _default_rate(of_the_embedded: float, *, _root_: DictConfig) -> float | None:
    """${default_rate:2e-3} in conf/method: of the embedded models, for which it was chosen; null for any other.

    bench.config takes the method's published rate then.
    """
    return of_the_embedded if _root_.model.source == "embedded" else None


OmegaConf.register_new_resolver("default_rate", _default_rate, replace=True)


def _explained_keys() -> str:
    """${explained_keys:}: the table of conf/README.md, a paragraph a key, for --help."""
    page = (CONF / "README.md").read_text(encoding="utf-8")
    table = page.partition("| key | default |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    lines = []
    for key, default, unit, *meaning in rows:
        said = " | ".join(meaning).replace("`", "").replace("[below](#a-rate-from-the-curvature)", "see conf/README.md")
        lines += [
            f"{key.strip('`')}={default}{'' if unit == '–' else f'  ({unit})'}",
            fill(said, 116, initial_indent=" " * 4, subsequent_indent=" " * 4),
        ]
    return "\n".join(lines).replace("$", "$$")  # Hydra reads the text as a string.Template


OmegaConf.register_new_resolver("explained_keys", _explained_keys, replace=True)


def build(config: DictConfig) -> Run:
    """The typed run of a composed configuration.

    Raises:
        ValueError: it cannot be run; the message is one line.
    """
    from bench.config import Run

    try:
        values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        values["study"] = values["study"] or experiment() or ADHOC
        run = Run.from_config(values)
        _ = run.run_id  # reads the model's folder
    except MissingMandatoryValue:
        missing = sorted(OmegaConf.missing_keys(config))
        raise ValueError(", ".join(f"{key} is missing: give {key}=VALUE" for key in missing)) from None
    except (ValueError, OmegaConfBaseException) as error:
        raise ValueError(one_line(error)) from None
    return run


def validated(config: DictConfig) -> Run:
    """As `build`; exits with one line if the run cannot be done."""
    try:
        return build(config)
    except ValueError as error:
        refuse(str(error))


def check_folder(run: Run) -> None:
    """Exits with one line if the results folder cannot be written, or the study leads out of it."""
    try:
        study_folder(run.results_dir, run.study)
        run.results_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run.results_dir):
            pass
    except ValueError as error:
        refuse(str(error))
    except OSError as error:
        refuse(f"results_dir={run.results_dir} cannot be written: {error.strerror}; choose another")


def experiment() -> str | None:
    """The experiment chosen on the command line; several as "a+b"."""
    chosen = HydraConfig.get().runtime.choices.get("experiments") if HydraConfig.initialized() else None
    return None if chosen is None else str(chosen).strip("[]").replace(", ", "+").replace("'", "")
