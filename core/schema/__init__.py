"""The database's schema: numbered SQL files, and the runner that applies them once."""
