import signal
import subprocess
import sys

import pytest

from bench.process import signals
from bench.process.signals import InterruptedRunError

ORPHAN = """
import os, time
from bench.process import signals
os.environ[signals.PARENT], signals.PARENT_SECONDS = str(os.getpid()), 0.1
if os.fork():
    time.sleep(0.5)
    os._exit(9)
with signals.handled():
    print("began", flush=True)
    try:
        time.sleep(60)
    except signals.InterruptedRunError as stopped:
        print(stopped, flush=True)
"""


def test_a_run_whose_sweep_was_killed_stops(tmp_path):
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, check=False, timeout=50)
    assert done.stdout.splitlines() == ["began", "SIGTERM"]


def test_a_deferred_signal_ends_the_run_when_its_body_has_ended():
    ended = []

    def run():
        with signals.handled():
            with signals.deferred():
                signal.raise_signal(signal.SIGTERM)
                assert signals.requested()
                ended.append("the step")
            ended.append("never")

    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        run()
    assert ended == ["the step"]


def test_slurms_signal_reaches_who_listened_before_when_the_run_has_stopped():
    order = []

    def run():
        with signals.handled():
            try:
                signal.raise_signal(signal.SIGUSR1)
            except InterruptedRunError:
                order.append("run")
                raise

    before = signal.signal(signal.SIGUSR1, lambda *_: order.append("listener"))
    try:
        with pytest.raises(SystemExit):
            run()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert order == ["run", "listener"]
