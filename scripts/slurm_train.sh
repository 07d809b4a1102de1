#!/bin/bash
# A training as a Slurm job that writes its checkpoint before its time ends, is requeued, and goes on from there.
#
#   mkdir -p runs
#   sbatch scripts/slurm_train.sh configs/preset/tiny.yaml configs/stage/asr.yaml                # on CPUs
#   sbatch --gpus=1 scripts/slurm_train.sh configs/preset/small.yaml configs/stage/asr.yaml      # on a GPU
#   sbatch --array=1-3 scripts/slurm_train.sh configs/preset/tiny.yaml configs/stage/asr.yaml seed=TASK
#
# TASK in an argument is the number of the task in an array.
#SBATCH --job-name=train
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --time=04:00:00
#SBATCH --output=runs/slurm-%A_%a.log
set -u
export PATH="$PWD/.venv/bin:$PATH"
task=${SLURM_ARRAY_TASK_ID:-}
stopped=143

stop() {
    kill -TERM "$training"
    wait "$training"
    code=$?
    # the last updates may have been made meanwhile, or the training may have failed
    [ "$code" = "$stopped" ] || exit "$code"
    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${task:+_$task}"
    exit 0
}
trap stop USR1

python train.py "${@//TASK/$task}" &
training=$!
wait "$training"
