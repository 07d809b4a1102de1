"""A small server that speaks the W&B protocol.

The real client runs sweeps, agents and runs with it, without a W&B account.
"""
