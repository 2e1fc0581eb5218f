from ext.ws_wheel import Timer

class Metered(Timer):
    """What a connection knows of how much its peer has sent lately; `ext.ws_connection.Connection` is one."""

    def spend(self, size: int, frames: int, now: float) -> tuple[bool, bool]:
        """Account for what came at `now` (seconds, never going back): whether it is too many bytes, too many frames."""
