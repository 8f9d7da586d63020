#!/usr/bin/env bash
# A sweep of an experiment file in which one setting follows another that is swept.
# Guess: in hydra.sweeper.params, `rank.lora_alpha: ${rank.r}` beside `rank.r: 4,16` gives each job its own r as alpha,
#   as the same words do in the body of the configuration and after -m on the command line.
# Seen (hydra-core 1.3.8, omegaconf 2.3.1): the words are filled in once, before the jobs are made, with the default of
#   rank.r. Both jobs get that as alpha, without a warning; the override that each job reports is the number.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet hydra-core==1.3.8 omegaconf==2.3.1
cd "$folder"
mkdir -p conf/experiment
cat >app.py <<'PYTHON'
import hydra


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config):
    print("job:", config.rank.r, config.rank.lora_alpha, config.follows)


main()
PYTHON
cat >conf/config.yaml <<'YAML'
rank:
  r: 8
  lora_alpha: 1
follows: ${rank.r}
YAML
cat >conf/experiment/ranks.yaml <<'YAML'
# @package _global_
hydra:
  sweeper:
    params:
      rank.r: 4,16
      rank.lora_alpha: ${rank.r}
YAML
"$folder/venv/bin/python" - <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version


def jobs(*arguments):
    command = [sys.executable, "app.py", "-m", *arguments]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    print("-m", *arguments)
    print(said.strip())
    return [[int(word) for word in line.split()[1:]] for line in said.splitlines() if line.startswith("job:")]


print(f"hydra-core {version('hydra-core')}, omegaconf {version('omegaconf')}; each job: r, alpha, what follows r")
line = jobs("rank.r=4,16", "rank.lora_alpha=${rank.r}")
file = jobs("+experiment=ranks")
assert line == [[4, 4, 4], [16, 16, 16]]
assert file == [[4, 8, 4], [16, 8, 16]], "alpha follows r: the behaviour has changed"
PYTHON
