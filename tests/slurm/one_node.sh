#!/bin/sh
# A Slurm of one node on this machine, for tests: as root, without systemd, accounting or network.
#   apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge     (Debian 12: Slurm 22.05)
#   eval "$(tests/slurm/one_node.sh start FOLDER)"     prints what to export: SLURM_CONF
#   tests/slurm/one_node.sh stop FOLDER
# FOLDER, an absolute path without blanks, keeps everything: a configuration, logs, munge's key and socket. /etc/slurm
# and /etc/munge are left alone, and a Slurm or munge that runs already is not touched.
set -eu

say() { echo "$*" >&2; }

usage() {
    say "usage: $0 start|stop FOLDER"
    exit 2
}

check() {
    for command in munged slurmctld slurmd sbatch; do
        if ! PATH="$PATH:/usr/sbin" command -v "$command" > /dev/null; then
            say "$command is missing: apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
            exit 3
        fi
    done
    if [ "$(id -u)" != 0 ]; then
        say "slurmctld and slurmd are started as root here; you are $(id -un)"
        exit 3
    fi
    if [ -e "$folder/slurmctld.pid" ] && kill -0 "$(cat "$folder/slurmctld.pid")" 2> /dev/null; then
        say "a Slurm runs in $folder already: $0 stop $folder"
        exit 3
    fi
}

# cred_expire is also how long Slurm holds a requeued job: 120 s unless set. preempt_send_user_signal: a job in the way
# of one in a higher partition gets the signal that it asked for (sbatch --signal), and has GraceTime seconds to end.
configure() {
    host=$(hostname)
    cores=$(nproc)
    memory=$(awk '/^MemTotal/ { print int($2 / 1024 * 0.8) }' /proc/meminfo)
    cat > "$folder/slurm.conf" << CONF
ClusterName=one_node
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
KillWait=30
MinJobAge=3600
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=$host MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
CONF
}

start() {
    check
    mkdir -p "$folder/state" "$folder/spool" "$folder/munge"
    chmod 755 "$folder" "$folder/munge"
    PATH="$PATH:/usr/sbin"
    head -c 128 /dev/urandom > "$folder/munge/key"
    chmod 600 "$folder/munge/key"
    configure
    trap 'stop' EXIT
    munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" >&2
    SLURM_CONF="$folder/slurm.conf"
    export SLURM_CONF
    slurmctld -f "$SLURM_CONF" >&2
    slurmd -f "$SLURM_CONF" >&2
    tries=0
    until [ "$(sinfo -h -p main -o %T 2> /dev/null)" = idle ]; do
        tries=$((tries + 1))
        if [ "$tries" -gt 60 ]; then
            say "the node is not idle after 30 s: $(sinfo -h -o '%T %E' 2>&1); logs are in $folder"
            exit 1
        fi
        sleep 0.5
    done
    trap - EXIT
    echo "export SLURM_CONF='$SLURM_CONF'"
}

# Jobs first: slurmd leaves theirs running when it ends.
stop() {
    SLURM_CONF="$folder/slurm.conf"
    export SLURM_CONF
    if [ -e "$SLURM_CONF" ] && timeout 5 scontrol ping 2> /dev/null | grep -q UP; then
        timeout 5 scancel --quiet --user=root 2> /dev/null || true
        tries=0
        while [ -n "$(timeout 5 squeue -h 2> /dev/null)" ] && [ "$tries" -lt 40 ]; do
            tries=$((tries + 1))
            sleep 1
        done
    fi
    for pid in "$folder/slurmd.pid" "$folder/slurmctld.pid" "$folder/munge/pid"; do
        [ -e "$pid" ] || continue
        number=$(cat "$pid")
        kill "$number" 2> /dev/null || true
        tries=0
        while kill -0 "$number" 2> /dev/null && [ "$tries" -lt 40 ]; do
            tries=$((tries + 1))
            sleep 0.25
        done
    done
}

[ "$#" = 2 ] || usage
folder=$2
case "$folder" in
    *[[:space:]]*) usage ;;
    /*) ;;
    *) usage ;;
esac
case "$1" in
    start) start ;;
    stop) stop ;;
    *) usage ;;
esac
