"""Earlier location of the command-line parser; use `evaluation.arguments`."""

from evaluation.arguments import compute as score
from evaluation.arguments import parser

__all__ = ["parser", "score"]
