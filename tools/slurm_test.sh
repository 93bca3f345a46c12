#!/usr/bin/env bash
# Test a checkpoint on a Slurm cluster.
set -euo pipefail

if [[ $# -lt 4 ]]; then
    cat >&2 <<USAGE
usage: [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \\
       $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
USAGE
    exit 2
fi

partition=$1
job_name=$2
config=$3
checkpoint=$4
shift 4
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
read -r -a srun_args <<<"${SRUN_ARGS:-}"

exec srun --partition "$partition" --job-name "$job_name" \
    --gres "gpu:$gpus_per_node" --ntasks "$gpus" --ntasks-per-node "$gpus_per_node" \
    --cpus-per-task "${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    "${PYTHON:-python}" -u "$root/tools/test.py" "$config" "$checkpoint" \
    --launcher slurm "$@"
