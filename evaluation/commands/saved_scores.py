"""Earlier location of saved scores; use `evaluation.saved_scores`."""

from evaluation.saved_scores import save_scores as keep

__all__ = ["keep"]
