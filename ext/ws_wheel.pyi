class Timer:
    """Something with at most one deadline: a link in the wheel, so that arming it allocates nothing."""

    def fire(self) -> None:
        """The deadline has passed; the timer is no longer armed and may be scheduled again."""

class Wheel:
    """Deadlines in slots of `tick_s` seconds; fires at the first `advance` after a deadline, at most a tick late."""

    def __init__(self, tick_s: float, now: float, slots: int = 512) -> None: ...
    @property
    def tick_s(self) -> float: ...
    @property
    def armed(self) -> int:
        """How many timers are armed."""
    def schedule(self, timer: Timer, now: float, delay: float) -> None:
        """Arm `timer` for `now + delay` (seconds), instead of whatever it was armed for."""
    def cancel(self, timer: Timer) -> None:
        """Disarm `timer`; nothing happens if it is not armed."""
    def advance(self, now: float) -> None:
        """Fire what is due at `now`. A timer that is armed meanwhile waits for the next call."""
    def timers(self) -> list[Timer]:
        """All that are armed, in no particular order."""
