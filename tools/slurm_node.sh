#!/bin/bash
# A SLURM of one node, this machine, below one folder, to try batch scripts on. As root, with
# Debian's packages slurm-wlm and munge; nothing outside the folder is changed, and no accounting.
#
# usage: slurm_node.sh start DIR    prints the line that makes sbatch find it
#        slurm_node.sh stop DIR
#
# SLURM_PORT   first of two ports (default 16817)

set -euo pipefail

usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

write_conf() {
  local port=${SLURM_PORT:-16817} host
  host=$(hostname -s)
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' > "$1/cgroup.conf"
  cat > "$1/slurm.conf" <<CONF
ClusterName=one-node
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$1/munge/socket
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/slurmd.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/slurmd.log
SlurmctldPort=$port
SlurmdPort=$((port + 1))
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$1/jobs.txt
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(free -m | awk '/^Mem:/ {print int($2 * 0.9)}')
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
}

start() {
  local dir tries
  for program in munged slurmctld slurmd sbatch; do
    command -v $program > /dev/null || {
      echo "$program is missing: apt-get install --no-install-recommends slurm-wlm munge" >&2
      exit 69
    }
  done
  mkdir -p "$1"
  dir=$(cd "$1" && pwd)
  mkdir -p "$dir/munge" "$dir/state" "$dir/spool"
  chmod 755 "$dir/munge"
  (umask 077 && head -c 1024 /dev/urandom > "$dir/munge/key")
  munged --force --key-file "$dir/munge/key" --socket "$dir/munge/socket" \
    --pid-file "$dir/munge/pid" --log-file "$dir/munge/log" --seed-file "$dir/munge/seed"
  write_conf "$dir"
  export SLURM_CONF=$dir/slurm.conf
  slurmctld -c
  slurmd
  for tries in 1 2 3 4 5 6 7 8 9 10 11 12; do
    sleep 5
    if [ "$(sinfo -h -o %t 2> /dev/null)" = idle ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
  done
  tail -n 5 "$dir"/slurmd.log "$dir"/slurmctld.log >&2
  echo "the node did not come up in $((tries * 5)) s" >&2
  exit 75
}

stop() {
  local file
  for file in slurmd.pid slurmctld.pid munge/pid; do
    if [ -s "$1/$file" ]; then kill "$(cat "$1/$file")" || true; fi
  done
}

case ${1:-}:${2:-} in
  start:?* | stop:?*) "$1" "$2" ;;
  *) usage >&2; exit 64 ;;
esac
