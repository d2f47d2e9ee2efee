#!/bin/bash
# A sweep on a SLURM allocation: Ray on every node, the driver on the first one.
#
#   sbatch cluster/slurm.sh SWEEP --results DIR --mlflow none [more options of rmpsweep launch]
#
# Submit from the environment that has rmpsweep. DIR, the sweep, its weights and data, and the home directory lie on a
# file system that all nodes see. The exit code is that of rmpsweep; the same command again continues the sweep.
# Fit these lines to your cluster, or give them as options of sbatch; --account and --partition may be needed.
#SBATCH --job-name=rmpsweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail
umask 077

# A token and ports of its own: other users, and other jobs of this one, may have Ray on the same node.
private=$(mktemp -d "$HOME/.rmpsweep-$SLURM_JOB_ID-XXXXXX") cluster=''
clean_up() {
    kill "$cluster" 2>/dev/null || true
    for _ in {1..30}; do # SLURM ends what is left when this script ends
        kill -0 "$cluster" 2>/dev/null || break
        sleep 1
    done
    rm -rf "$private"
}
trap clean_up EXIT
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$private/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$private/token RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # when Ray is stopped, the driver is done
port=$((20000 + SLURM_JOB_ID % 5000 * 2))
ip=$(python -c 'from ray.util import get_node_ip_address; print(get_node_ip_address())')
export port ip

# shellcheck disable=SC2329 # srun calls it
start_ray() { # on each node, until it is stopped
    local directory options
    directory=$(mktemp -d "/tmp/rmpsweep-$SLURM_JOB_ID-XXXXXX") # Ray's own would be open to every user of the node
    options=(--num-cpus="$SLURM_CPUS_PER_TASK" --temp-dir="$directory/ray" --block
        --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0)
    if ((SLURM_NODEID == 0)); then
        options+=(--head --node-ip-address="$ip" --port="$port" --ray-client-server-port=$((port + 1))
            --include-dashboard=false)
    else
        options+=(--address="$ip:$port")
    fi
    trap : TERM # so that what follows `ray start` is done too
    ray start "${options[@]}" || true
    rm -rf "$directory"
}
export -f start_ray

srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --no-kill --kill-on-bad-exit=0 bash -c start_ray &
cluster=$!

# `launch` connects once; nodes that come later are given work when they are there.
until (: <"/dev/tcp/$ip/$port") 2>/dev/null || ! kill -0 "$cluster" 2>/dev/null || ((SECONDS > 300)); do sleep 1; done

rmpsweep launch "$@" --address "$ip:$port" &
driver=$!

# SIGTERM lets the driver finish the units in flight: before the time limit, then the job goes back into the queue; and
# on `scancel --batch --signal=TERM JOB`, then it does not.
interrupted='' requeue=''
trap 'interrupted=1; requeue=1; kill -TERM "$driver" || true' USR1
trap 'interrupted=1; kill -TERM "$driver" || true' TERM
while true; do
    wait "$driver" && code=0 || code=$?
    [[ $interrupted ]] || break
    interrupted='' # it was the signal that ended `wait`
done

if [[ $requeue ]] && ((code == 130 && ${SLURM_RESTART_COUNT:-0} < 20)); then
    clean_up
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
