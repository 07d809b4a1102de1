"""Training under Slurm."""

from lightning.pytorch.plugins.environments import SLURMEnvironment


def slurm_plugins() -> list[SLURMEnvironment]:
    """Return the trainer's plugins under Slurm, where scripts/ alone requeues a job.

    Lightning's own requeueing on SIGUSR1 writes no checkpoint that `make train` goes on from, and
    would work against an agent, which requeues the trial of a sweep.
    """
    if SLURMEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    return []
