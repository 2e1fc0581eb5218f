class Handshake:
    """What a connection needs until it is open: the request so far, then what arrived after it."""

    def __init__(self, peer: tuple[str, int], awaits_proxy: bool) -> None: ...
