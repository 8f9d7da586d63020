"""A made-up study of stages, with a run of every status and texts that try to be markup."""

import pandas as pd
from PIL import Image
from records import make_record

import bench.runs.record
from bench.report.read.load import load_study
from bench.study.plan_file import PlannedRun, StudyPlan, write_plan

PLANTED = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
ENVIRONMENT = {
    "fingerprint": "f1",
    "code": {"version": "0.1.0", "revision": "a" * 40, "dirty": False},
    "versions": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
    "hardware": {"gpu": None, "cpu": "c", "num_threads": 1},
}


def a_record(run_id, method="hu", label=None, rank="r8", task="t", model="m", seed=0, rate=1e-3, value=0.5, error=None):
    config = {
        "seed": seed,
        "study": "staged",
        "method": {"name": method, "scaling": "alpha_over_r"},
        "rank": {"name": rank, "r": int(rank[1:]), "lora_alpha": 16.0},
        "task": {"name": task, "note": PLANTED},
        "model": {"name": model},
        "train": {"learning_rate": rate, "max_steps": 90},
    }
    identity = {key: config[key] for key in ("seed", "method", "rank", "task", "model", "train")}
    if method == "full_ft":
        del identity["rank"]
    record = make_record(
        run_id, "failed" if error else "completed", label or method.upper(), config, identity, ENVIRONMENT
    )
    record.phases = {"train": {"seconds": 10.0 + seed, "peak_bytes": 1}, "score": {"seconds": 1.5, "peak_bytes": 1}}
    if error:
        record.error = {"type": "RuntimeError", "message": error, "step": 7, "traceback": ""}
        return record
    record.initialization = {"num_trainable": 100, "num_head": 0}
    record.training = {"num_steps": 90, "eval_loss": 1.0}
    about = {"task": task, "stderr": 0.01, "num_examples": 10, "higher_is_better": True, "majority": None}
    record.scores = [{"metric": "acc", "value": value} | about, {"metric": "f1", "value": float("nan")} | about]
    return record


def write_record(folder, record):
    path = folder / record.run_id
    path.mkdir(parents=True)
    bench.runs.record.write_record(path, record)


def planned(stage, method, run_id, seed, rate=None, rank="r8", refused=None):
    group = (f"method={method}", f"rank={rank}")
    rates = () if rate is None else (f"train.learning_rate={rate:g}",)
    return PlannedRun(stage, group, (*group, *rates, f"seed={seed}"), run_id, refused)


def staged_study(results):
    """select: two rates a method; tuned: LoRA twice, LoRA-GA once and once failed, more that have no record."""
    folder = results / "staged"
    records = [
        a_record("hu-low", "hu", "LoRA", seed=100, rate=1e-4, value=0.4),
        a_record("hu-high", "hu", "LoRA", seed=100, rate=1e-3, value=0.6),
        a_record("hu-0", "hu", "LoRA", seed=0, rate=1e-3, value=0.61),
        a_record("hu-1", "hu", "LoRA", seed=1, rate=1e-3, value=0.097),
        a_record("ga-0", "lora_ga", PLANTED, seed=0, rate=3e-4, value=0.7),
        a_record("ga-1", "lora_ga", PLANTED, seed=1, rate=3e-4, error=f"loss is not finite {PLANTED}"),
        a_record("ff-0", "full_ft", "Full FT", seed=0, rate=1e-5, value=0.8),
    ]
    for record in records:
        write_record(folder, record)
    (folder / "hu-torn").mkdir()
    (folder / "hu-torn" / "record.json").write_text("{")
    runs = (
        planned("select", "hu", "hu-low", 100, 1e-4),
        planned("select", "hu", "hu-high", 100, 1e-3),
        planned("tuned", "hu", "hu-0", 0, 1e-3),
        planned("tuned", "hu", "hu-1", 1, 1e-3),
        planned("tuned", "hu", "hu-torn", 2, 1e-3),
        planned("tuned", "lora_ga", "ga-0", 0, 3e-4),
        planned("tuned", "lora_ga", "ga-1", 1, 3e-4),
        planned("tuned", "full_ft", "ff-0", 0, 1e-5),
        planned("tuned", "full_ft", "ff-1", 1, 1e-5),
        planned("tuned", "eva", None, 0),
        planned("tuned", "pissa", None, 0, refused="pissa needs W in float32"),
        planned("shared", "hu", "hu-0", 0, 1e-3),
        planned("shared", "hu", "hu-16", 0, 1e-3, rank="r16"),
    )
    write_plan(folder, StudyPlan("paper/staged", ("select", "tuned", "shared"), runs))
    return load_study(results, "staged")


TABLE = pd.DataFrame(
    {
        "method": ["Pretrained", "LoRA", PLANTED, "Full FT"],
        "acc %": ["–", "9.7 [1.0, 20.0] †", "**86.2 [72.5, 99.8]**", "12.5"],
        "trainable": ["0", "1,792", "74,752", "803,968"],
        "rank": ["–", "r8", "r16", "–"],
    }
)
TABLES = [("t, m", TABLE, [f"A note with `code`, **weight** and {PLANTED}"])]


def a_figure(path):
    """A white PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "white").save(path)
    return path
