"""Proofs of identity, pure: passwords, access and refresh tokens, API keys, login codes, signed cursors."""
