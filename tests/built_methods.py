"""Methods with the settings that conf/method states, for tests that compose no run."""

import re

import yaml

from bench.methods.find import method_class
from bench.study.folders import CONF


def built(name, **settings):
    """The method of conf/method/NAME.yaml with its paper's scaling rule; `settings` replace what the file states."""
    values = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())["method"]
    target, _ = values.pop("_target_"), values.pop("name")
    rule = re.fullmatch(r"\$\{scaling:(\w+)\}", str(values.get("scaling")))
    return method_class(target)(**values | ({"scaling": rule[1]} if rule else {}) | settings)
