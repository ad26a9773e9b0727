#!/usr/bin/env bash
# A sweep on a Slurm cluster, submitted in the checkout, which all nodes see (a shared home):
#   sbatch clusters/slurm.sh search_spaces/vib.yaml [KEY=VALUE ...] [options]
# Run bin/setup on a login node first. Submit the same line again to train what is missing.
#
#SBATCH --job-name=raysweep
#SBATCH --output=raysweep-%j.log
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
# Whole nodes: Ray's ports are fixed, and at the end it stops all your Ray processes on a node.
#SBATCH --exclusive
# A lost node must not end the job: its packs go to the others.
#SBATCH --no-kill
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"
# shellcheck source=/dev/null
source .venv/bin/activate

# A token for this job alone, on the shared home, where all its nodes can read it.
private="$HOME/.ray/job-$SLURM_JOB_ID"
trap 'rm -rf "$private"' EXIT
(
    umask 077
    mkdir -p "$private"
    python -c 'import secrets; print(secrets.token_hex(32))' > "$private/token"
)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$private/token"
export CODE_FILE="$private/exit_code"

# Seconds that workers wait for the head (default: 30): Ray loads slowly from a shared home.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
# A lost node is noticed after about 15 s.
export RAY_health_check_initial_delay_ms=5000 RAY_health_check_period_ms=2000
export RAY_health_check_timeout_ms=3000 RAY_health_check_failure_threshold=3
# Not /tmp/ray, which may belong to another user.
export RAY_TMPDIR="/tmp/raysweep-$SLURM_JOB_ID"
srun mkdir -p "$RAY_TMPDIR"

# This script runs on the job's first node, whose name may resolve to 127.0.1.1 there: use its IP.
addresses=$(hostname -I)
head="${addresses%% *}:6379"

# No --min-nodes: with it symmetric-run fails on the head whatever the outcome, so the program waits
# for nodes itself. symmetric-run succeeds if the head did not start, so keep the program's own exit
# code in a file. CPUs are named without binding: else one task per node would be bound to one core.
# SC2016: the inner shell must expand these, not this one.
# shellcheck disable=SC2016
srun --no-kill --wait=0 --cpus-per-task="$SLURM_CPUS_ON_NODE" --cpu-bind=none \
    ray symmetric-run --address "$head" --num-cpus "$SLURM_CPUS_ON_NODE" -- \
    bash -c '"$@"; echo $? > "$CODE_FILE"' keep-code \
    python -m raysweep.tune "$@" --address "$head" \
    --wait-for-nodes "$SLURM_JOB_NUM_NODES" --wait-s 600 || true
srun rm -rf "$RAY_TMPDIR" || true
exit "$(cat "$CODE_FILE" 2> /dev/null || echo 4)"
