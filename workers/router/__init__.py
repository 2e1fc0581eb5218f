"""The router: takes turns from the bus, streams answers from providers, ends them in history."""
