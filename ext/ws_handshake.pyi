def parse_upgrade(head: bytes, max_headers: int) -> tuple[str, str, dict[str, str]]:
    """Path, query and headers (by lower-case name) of a request `head`, which ends with its empty line.

    Raises `ext.ws_answers.HandshakeError` for anything that is not a valid upgrade to WebSocket version 13.
    """

def accept_token(key: str) -> bytes:
    """The value of Sec-WebSocket-Accept that answers a Sec-WebSocket-Key."""
