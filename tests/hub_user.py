"""What a user does with a Hub: a run and its export, then loading what cannot be loaded; or the same run without it.

`python hub_user.py online|offline FOLDER OVERRIDE...`; writes FOLDER/results, adapter, merged and said.json, which
holds what loading each repository said: the revision of a model, the number of rows of a dataset, or the error.
"""

import json
import os
import sys
from pathlib import Path

from hub_server import EXPIRED, MEMBER, STRANGER
from huggingface_hub import constants

from bench import export, run
from bench.model.load import Model
from bench.process import hub
from bench.tasks.data import Carving, Dataset, HubDataset, Splits

CHUNK = 10_000  # bytes; so that a small file is written in parts, as a large one is


def model(path, revision="main", kind="causal", token=MEMBER, gguf_file=None):
    made = Model("x", kind, "hub", path, revision, None, "float32", "sdpa", gguf_file=gguf_file)
    return said(lambda: made.pinned().load().revision, token)


def dataset(path, revision="main", subset="main", split="train", token=MEMBER):
    made = Dataset("x", {"question": "text"}, {}, HubDataset(path, subset, revision), Splits(split, None), {}, None)
    return said(lambda: len(made.load(None, {"train"}, Carving(1)).by_split["train"]), token)


def said(load, token):
    hub.commit.cache_clear()  # as another process would ask
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        return load()
    except ValueError as error:
        return str(error)


def everything():
    found = {}
    for load, there in ((model, "me/tiny"), (dataset, "me/sums")):
        found[load.__name__] = {
            "gated, no token": load("me/gated", token=None),
            "gated, a stranger": load("me/gated", token=STRANGER),
            "gated, a token that has expired": load("me/gated", token=EXPIRED),
            "missing": load("me/nothing"),
            "missing, no token": load("me/nothing", token=None),
            "no name": load("me/no/thing"),
            "no branch": load(there, "nope"),
            "no commit": load(there, "0" * 40),
        }
    found["model"] |= {"no kind": model("me/gated", kind=None, token=STRANGER), "tag": model("me/tiny", "v1")}
    found["model"] |= {"torn": model("me/torn"), "torn, again": model("me/torn")}
    found["model"] |= {"a GGUF file": model("me/blocks", kind=None, gguf_file="tiny.gguf")}
    found["model"] |= {"no GGUF file": model("me/blocks", gguf_file="other.gguf")}
    found["dataset"] |= {"gated, a member": dataset("me/gated")}
    found["dataset"] |= {"no split": dataset("me/sums", split="training"), "no subset": dataset("me/sums", subset="x")}
    # What the cache of datasets was given last is now another commit than the run's.
    found["dataset"] |= {"subsets of a branch": dataset("me/sums", "later", ("main", "other"))}
    return found


def main():
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    what, folder, *overrides = sys.argv[1:]
    sys.argv = ["bench.run", *overrides, f"results_dir={folder}/results"]
    try:
        run.main()
    except SystemExit as ended:
        if ended.code:
            raise
    if what == "online":
        (done,) = Path(folder).glob("results/mine/hu-*")
        assert export.main([str(done), "--to", f"{folder}/adapter"]) == 0
        assert export.main([str(done), "--to", f"{folder}/merged", "--merged"]) == 0
        found = everything()
    else:
        found = {"model": model("me/nothing"), "dataset": dataset("me/sums", "1" * 40)}
    Path(folder, "said.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
