#!/usr/bin/env bash
# Train on the GPUs of this machine, or of several machines.
set -euo pipefail

if [[ $# -lt 2 ]]; then
    cat >&2 <<USAGE
usage: [NNODES=1] [NODE_RANK=0] [MASTER_ADDR=127.0.0.1] [PORT=<free one>] \\
       $0 CONFIG GPUS [options of tools/train.py]

GPUS is the number of processes on this machine, one per GPU. Without a GPU they run on
the CPU. On several machines, give all of them the same MASTER_ADDR and PORT.
USAGE
    exit 2
fi

config=$1
gpus=$2
shift 2
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

if [[ ${NNODES:-1} == 1 && -z ${PORT:-} ]]; then
    rendezvous=(--standalone) # a free port, so that two launches do not collide
else
    rendezvous=(
        --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}"
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}"
    )
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${rendezvous[@]}" \
    --nproc_per_node "$gpus" "$root/tools/train.py" "$config" --launcher pytorch "$@"
