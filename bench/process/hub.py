"""Asks the Hugging Face Hub once whether it answers, so that a network that drops packets does not hold a run up.

The libraries ask for each file of a repository several times and wait ten seconds or more each time: for twenty files
that is an hour. If the Hub does not answer, the process reads only its cache from then on.
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
