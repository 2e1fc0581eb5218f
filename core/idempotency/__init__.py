"""Finished answers of stateless calls, kept for who repeats a call with the same Idempotency-Key."""
