"""Training under Slurm."""

from lightning.pytorch.plugins.environments import SLURMEnvironment

from lightning_modules.trainer.logging import in_sweep


def slurm_plugins() -> list[SLURMEnvironment]:
    """Return the trainer's plugins under Slurm, where a trial must not requeue itself."""
    if in_sweep() and SLURMEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    return []
