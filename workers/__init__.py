"""Long-running consumers: routers, the ledger worker, the janitor."""
