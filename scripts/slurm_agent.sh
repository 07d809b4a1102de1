#!/bin/bash
# W&B agents as Slurm tasks, one point each; a task that Slurm takes the node from comes back, and its point with it.
#
#   mkdir -p runs
#   sbatch --array=1-8 scripts/slurm_agent.sh ENTITY/PROJECT/SWEEP_ID               # on CPUs
#   sbatch --array=1-8 --gpus=1 scripts/slurm_agent.sh ENTITY/PROJECT/SWEEP_ID      # one GPU each
#
# Slurm's own SIGTERM would end the W&B client together with the training. So Slurm signals this shell alone, two minutes
# before the end, and the shell tells the agent, which passes SIGTERM on and waits for the checkpoint.
#SBATCH --job-name=sweep
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --time=04:00:00
#SBATCH --output=runs/slurm-%A_%a.log
set -u
sweep=${1:?name the sweep: sbatch scripts/slurm_agent.sh ENTITY/PROJECT/SWEEP_ID}
export PATH="$PWD/.venv/bin:$PATH"

stop() {
    kill -TERM "$agent"
    wait "$agent"
    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    exit 0
}
trap stop USR1

wandb agent --forward-signals --term-timeout 90 --count 1 "$sweep" &
agent=$!
wait "$agent"
