from typing import Literal

Event = tuple[Literal[1], str] | tuple[Literal[2, 9, 10], bytes] | tuple[Literal[0, 8], tuple[int, str]]

def mask(data: bytes, key: bytes, offset: int = 0) -> bytes:
    """`data` XOR the four bytes of `key`, beginning at its byte `offset` modulo 4. ValueError for another key."""

def close_code_valid(code: int) -> bool:
    """Whether a close frame may carry `code`."""

def encode_frame(opcode: int, payload: bytes) -> bytes:
    """One whole, unmasked frame. ValueError for a control frame of more than 125 bytes."""

def encode_close(code: int, reason: str) -> bytes:
    """A close frame; `reason` is cut to 123 bytes at a character. Code 1005 makes one without a body.

    Raises ValueError for a code that may not be sent.
    """

class FrameParser:
    """The frames of one client, from bytes in pieces of any size. After CLOSE or FAILED it ignores everything."""

    frames: int
    """Whole frames so far, control frames and fragments included; whoever counts may set it back."""

    def __init__(self, max_message: int, max_fragments: int) -> None: ...
    @property
    def max_message(self) -> int: ...
    @property
    def max_fragments(self) -> int: ...
    @property
    def idle(self) -> bool:
        """Whether nothing is incomplete: no state beyond the limits."""
    def feed(self, data: bytes) -> list[Event]:
        """Take bytes; return the events that they complete, in order.

        1 text, 2 binary, 9 ping, 10 pong; 8 close `(code, reason)`, 1005 for an empty body; 0 a violation
        `(close code, reason)`, at the first byte that shows it.
        """
