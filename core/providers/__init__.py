"""Model providers: the port and its adapters."""
