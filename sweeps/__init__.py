"""Sweeps: W&B sweep files, and what runs them anywhere."""
