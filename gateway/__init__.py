"""From a client's socket to the bus, and back."""
