#!/bin/sh
# make slurm: sweeps on a Slurm of one node that is started for them and stopped after them; as root (one_node.sh).
set -eu
cd "$(dirname "$0")/../.."
folder=$(mktemp -d /tmp/lora-init-bench-slurm.XXXXXX)
trap 'tests/slurm/one_node.sh stop "$folder"; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
node=$(tests/slurm/one_node.sh start "$folder")
eval "$node"
status=0
.venv/bin/python -m pytest tests/slurm -v --durations=0 --durations-min=1 -p no:cacheprovider "$@" || status=$?
echo "jobs by state:"
scontrol show job --oneliner | grep -o 'JobState=[A-Z]*' | sort | uniq -c
echo "jobs started again: $(scontrol show job --oneliner | grep -c 'Restarts=[1-9]' || true)"
exit "$status"
