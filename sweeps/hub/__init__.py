"""A small server that speaks the W&B protocol: sweeps, agents and runs with the real client and without an account."""
