"""How bad things are right now. The scenario turns these; ports read them."""

from __future__ import annotations


class Faults:
    """Probabilities per operation; times in seconds. All of it off is a good day."""

    def __init__(self) -> None:
        self.heal()

    def heal(self) -> None:
        """Everything works again."""
        self.history_away = False
        self.history_lost = 0.0
        self.history_late = 0.0
        self.history_unwritten = 0.0
        self.history_unanswered = 0.0
        self.history_slow = 0.0
        self.bus_away = False
        self.bus_drop = 0.0
        self.bus_duplicate = 0.0
        self.bus_reorder = 0.0
        self.bus_slow = 0.0
        self.stream_away = False
        self.provider_fail = 0.0
        self.provider_die = 0.0
        self.provider_slow = 0.0
        self.poison = False
