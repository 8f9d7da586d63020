"""The Hugging Face Hub, asked once whether it answers: a network that swallows packets must not hold a run up.

The libraries ask for each file of a repository several times, with ten seconds and more for each; a run that needs
twenty files then waits for an hour. Where the Hub does not answer, the rest of the process reads its cache only.
"""

from __future__ import annotations

import functools
import http.client
import sys
import urllib.error
import urllib.request
import warnings

TIMEOUT = 10.0  # seconds


@functools.cache
def ask() -> bool:
    """Whether the Hub answers; if not, says so and makes the libraries read their caches only. Asked once a process."""
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
