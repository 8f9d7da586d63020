"""What tests of systems share: systems with the settings that conf/system states, and pairs of random matrices."""

import yaml

from bench.methods.base import PLAIN, Rank
from bench.study.folders import CONF
from bench.systems.base import Host, Pair
from bench.systems.find import system_class
from built_methods import built
from matrices import random

S = 0.7


def built_system(name, rank_r=4, **settings):
    """The system of conf/system/NAME.yaml; `settings` replace what the file states."""
    values = yaml.safe_load((CONF / "system" / f"{name}.yaml").read_text())["system"]
    target, _ = values.pop("_target_"), values.pop("name")
    values = {key: rank_r if value == "${rank.r}" else value for key, value in values.items()}
    return system_class(target)(**values | settings)


def host(method="hu", options=PLAIN, max_steps=90, dtype="float32", r=4):
    return Host(method, built(method), Rank("r4", r, 2.0 * r), options, max_steps, dtype)


def factors_of(out, into, r=4):
    """A (r, in), B (out, r) and a G (out, in), none of them with orthogonal rows or columns."""
    return random(r, into, seed=1), random(out, r, seed=2), random(out, into, seed=3)


def pair_of(A, B, G, s=S, **others):
    """The pair with the gradients that G gives A and B."""
    return Pair("layer", {"lora_A": A, "lora_B": B} | others, {"lora_A": s * B.T @ G, "lora_B": s * G @ A.T}, s)


def moved(directions, A, B, s=S):
    """s (dB A + B dA)."""
    return s * (directions["lora_B"] @ A + B @ directions["lora_A"])
