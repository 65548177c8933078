#!/usr/bin/env bash
# Starts SLURM (Debian's packages) on this machine alone, to try docs/scaling.md; as root.
#   scripts/slurm.sh start FOLDER     prints what to export, so that sbatch and srun find it
#   scripts/slurm.sh stop FOLDER
# Everything but Munge's own key is in FOLDER (an absolute path), which is created.
set -euo pipefail

usage() { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }
action=${1:-}; folder=${2:-}
[[ -n $folder && $folder == /* ]] || usage
for program in munged slurmctld slurmd; do
  [[ -x /usr/sbin/$program ]] ||
    { echo "SLURM is not installed: apt-get install slurmctld slurmd slurm-client munge" >&2; exit 1; }
done
[[ $EUID -eq 0 ]] || { echo "SLURM's daemons need root" >&2; exit 1; }
stop() {
  for name in slurmd slurmctld munged; do
    if [[ -s $folder/$name.pid ]]; then kill "$(<"$folder/$name.pid")" 2>/dev/null || true; fi
  done
}

case $action in
  start)
    mkdir -p "$folder"/{state,spool,munge}
    host=$(hostname -s)
    cat >"$folder/slurm.conf" <<CONF
ClusterName=trial
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=46817
SlurmdPort=46818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
    head -c 1024 /dev/urandom >"$folder/munge/key"
    chmod 400 "$folder/munge/key"
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
      --pid-file="$folder/munged.pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
    export SLURM_CONF=$folder/slurm.conf
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF"
    for _ in $(seq 60); do
      [[ $(sinfo -h -o %t 2>/dev/null) == idle* ]] && { echo "export SLURM_CONF=$SLURM_CONF"; exit 0; }
      sleep 0.5
    done
    tail -5 "$folder"/*.log >&2
    stop
    exit 1
    ;;
  stop) stop ;;
  *) usage ;;
esac
