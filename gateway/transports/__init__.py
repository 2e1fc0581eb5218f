"""Bytes to the session and back, nothing else."""
