"""Which gateways hold connections of a user."""
