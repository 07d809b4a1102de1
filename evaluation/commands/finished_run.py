"""Earlier location of finished runs; use `evaluation.finished_run`."""

from evaluation.finished_run import Run, open_run

__all__ = ["Run", "open_run"]
