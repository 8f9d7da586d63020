"""The Hugging Face Hub: whether it answers, which commit a name stands for, and why a repository cannot be had.

The libraries ask for each file of a repository several times and wait ten seconds or more each time: for twenty files
that is an hour where a network drops packets. If the Hub does not answer, the process reads only its cache from then
on.
"""

from __future__ import annotations

import functools
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Literal

from bench.process.validation import one_line

TIMEOUT = 10.0  # seconds
COMMIT = re.compile("[0-9a-f]{40}")
RepoType = Literal["model", "dataset"]  # as huggingface_hub says


@functools.cache
def ask() -> bool:
    """True if the Hub answers; if not, warns and makes the libraries read their caches only. Asked once a process."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        return True  # it answers, if only that it does not like the question
    except (OSError, ValueError, http.client.HTTPException) as error:
        constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:  # which keeps a copy
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
        reason = getattr(error, "reason", error)
        warnings.warn(f"the Hub does not answer ({reason}); what is in its cache is used", stacklevel=2)
        return False
    return True


@functools.cache
def commit(repo_type: RepoType, path: str, revision: str | None) -> str:
    """The commit of a branch or a tag: where the Hub has it now or, without the Hub, where its cache last saw it.

    Asked once a process, so that all of its runs start from the same. A commit is returned as it is; so is a name that
    neither knows, and loading then says why.

    Args:
        repo_type: model or dataset.
        path: OWNER/NAME.
        revision: a commit, a branch or a tag; None for the branch main.

    Raises:
        ValueError: the revision is a path out of the cache, which git allows for no name.
    """
    revision = revision or "main"
    if COMMIT.fullmatch(revision):
        return revision
    if ".." in revision or revision.startswith("/"):  # the library would read any file that it leads to
        raise ValueError(f"{repo_type} {path}: {revision} is no name of a revision; give a commit, a branch or a tag")
    from huggingface_hub import HfApi

    online = ask()
    try:
        found = HfApi().resolve_revision(path, repo_type=repo_type, revision=revision, local_files_only=not online)
    except errors():
        return revision
    warnings.warn(
        f"{repo_type} {path}: {revision} is no commit and can move; this run starts from {found.resolved}, and records "
        "it",
        stacklevel=2,
    )
    return found.resolved


def download(path: str, name: str, revision: str | None) -> Path:
    """A file of a model's repository, from the Hub or its cache; raises what `errors` lists.

    Raises:
        ValueError: the repository has no such file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(path, name, revision=revision))
    except RemoteEntryNotFoundError as error:
        raise ValueError(f"model {path} has no file {name} at {revision or 'main'}; choose one that it has") from error


def errors() -> tuple[type[Exception], ...]:
    """What reading from the Hub raises: a refused request is an OSError, a connection that breaks off is none."""
    from huggingface_hub.errors import HFValidationError, RevisionResolutionError
    from huggingface_hub.utils import httpx

    return (OSError, httpx.HTTPError, HFValidationError, RevisionResolutionError)


def reason(error: Exception, repo_type: RepoType, path: str, revision: str | None) -> str:
    """Why a repository could not be loaded and what to do, in a line.

    The libraries answer a refusal with what their caches lack, or with another error; so the Hub is asked once more,
    for the headers of a file.

    Args:
        error: what the library raised.
        repo_type, path, revision: as `commit` takes them.
    """
    from huggingface_hub.utils import httpx

    if not ask():
        return _not_cached()
    if (refused := _refusal(repo_type, path, revision or "main")) is not None:
        return refused
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for broken in causes:
        if isinstance(broken, httpx.TransportError):
            said = f"{type(broken).__name__}: {one_line(broken)}"
            return f"the connection broke off ({said}); the same command fetches the files that are not there yet"
    return one_line(error).rstrip(".")


def _not_cached() -> str:
    because = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the Hub does not answer"
    return f"it is not in the cache, and {because}"


@functools.cache
def refusal(repo_type: RepoType, path: str, revision: str | None) -> str | None:
    """Why neither the Hub nor its cache gives a repository, asked before runs need it; None if one of them does.

    Args:
        repo_type, path, revision: as `commit` takes them.
    """
    revision = commit(repo_type, path, revision)
    if ask():
        return _refusal(repo_type, path, revision)
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(path, repo_type=repo_type, revision=revision, local_files_only=True)
    except errors():
        return _not_cached()
    return None


def _refusal(repo_type: RepoType, path: str, revision: str) -> str | None:
    """Why the Hub does not give this repository's files at this revision; None if it does."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import httpx

    page = f"{constants.ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{path}"
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        url = hf_hub_url(path, "config.json", repo_type=repo_type, revision=revision)
        get_hf_file_metadata(url, timeout=TIMEOUT)
    except errors.EntryNotFoundError:
        return None
    except errors.HFValidationError:
        return f"this is no name of a {repo_type} on the Hub, which is OWNER/NAME"
    except errors.HfHubHTTPError as refused:
        status, licence = refused.response.status_code, f"accept its licence at {page}"
        denied = f"it is gated, and the user of this token has no access; {licence}, and wait if asked"
        missing = f"there is no {repo_type} of this name, or it is private; check the name, or {log_in}"
        expired = "the Hub refuses the token, that of HF_TOKEN or of `hf auth login`; renew it"
        said = {
            (errors.GatedRepoError, 401): f"it is gated; {licence}, then {log_in}",
            (errors.GatedRepoError, 403): denied,
            (errors.RepositoryNotFoundError, status): missing,
            (
                errors.RevisionNotFoundError,
                404,
            ): f"it has no revision {revision}; {page}/commits/main lists its commits",
            (errors.HfHubHTTPError, 401): expired,
        }
        return said.get((type(refused), status), f"the Hub answers {status}; try again later")
    except httpx.TransportError as silent:
        return f"the Hub stopped answering ({type(silent).__name__}: {one_line(silent)}); try again later"
    return None
