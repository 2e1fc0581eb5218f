"""One process's load engine. Everything is prepared first; nothing moves but within `run`, which is native code.

Connections have numbers, given by `prepare` in order from 0. Times in histograms are microseconds on CLOCK_MONOTONIC,
counted from the moment at which something was due, so lateness of whomever is in them; `late` holds the engine's own.

Work is a job: opening, sending, turns or HTTP requests. Its pieces are due at `rate` a second from `begin_ns`
(CLOCK_MONOTONIC; 0: when `run` is called; processes that shall begin together are given the same), evenly or, with
`poisson`, at random. With `rate` 0 a piece is due when there is room for it. `at_once` bounds the pieces in progress
(0: no bound): what is due and finds no room waits, and its latency counts on. Up to 32 jobs may be under way at once.
"""

from collections.abc import Sequence
from typing import Any, Literal

def bucket(us: int) -> int:
    """The index at which the engine counts so many microseconds."""

def serve_floor(listening: int, stop: int, answer: bytes) -> None:
    """Serves WebSockets on the listening, non-blocking socket at the least cost until the file `stop` can be read or is
    closed on its other side: answers every upgrade with `answer` (101 and headers), echoes every frame, and for a text
    `push COUNT BURST SIZE` sends so many text frames, in writes of BURST. Not hardened: for the engine's clients only.

    Raises OSError.
    """

Ending = Literal["close", "fin", "rst", "half", "mid-frame", "abandon"]

class Engine:
    def __init__(self, capacity: int = 20_000, *, seed: int = 1) -> None:
        """For up to `capacity` connections over its life (each a file while it is open)."""

    # --- connections ----------------------------------------------------------------------------------------------

    def prepare(
        self,
        targets: Sequence[tuple[str, int]],
        requests: Sequence[bytes],
        *,
        count: int = 0,
        sources: Sequence[str] = (),
        kind: Literal["websocket", "http", "raw"] = "websocket",
        accept: bytes = b"",
        rcvbuf: int = 0,
        timeout_s: float = 10.0,
    ) -> range:
        """Adds `count` connections (0: one for each request); returns their numbers.

        Connection n of them goes to `targets[n % len]` (IPv4 addresses and ports), from `sources[n % len]` where
        there are some (bound with IP_BIND_ADDRESS_NO_PORT), and writes `requests[n % len]` first: a PROXY header may
        stand before it, and it may break off. A `websocket` is open once 101 came, and, where `accept` is not empty,
        with that Sec-WebSocket-Accept; `http` and `raw` are open once they are connected (`raw` writes its request
        then, and counts the bytes that come). `rcvbuf` is SO_RCVBUF (0: the kernel's choice); `timeout_s` bounds
        connecting and handshake together.
        """

    def open(
        self, numbers: Sequence[int], *, rate: float = 0.0, at_once: int = 0, poisson: bool = False, begin_ns: int = 0
    ) -> int:
        """A job: connects them in order. A piece is done when it is open or has failed. Histogram `handshake`.

        Connections that were open before and ended may be opened again.
        """

    def retry(self, *, attempts: int, delay_ms: float = 100.0, jitter: float = 0.5, obey: bool = True) -> None:
        """From now on a handshake that fails (refused, reset, timed out, 429, 5xx) is tried again up to `attempts`
        times in all: after what Retry-After or retry-after-ms says where `obey`, else after `delay_ms` doubled with
        each attempt (at most 5 s); in both cases up to `jitter` of it longer. The piece stays in progress meanwhile.
        """

    def come_back(
        self, targets: Sequence[tuple[str, int]], *, within_ms: float, drain: bool = True, resume: bool = True
    ) -> None:
        """From now on a websocket that is lost is opened again, after a random part of `within_ms`, at one of
        `targets` (the next after its own), under the rules of `retry`. Histogram `back`: from the loss to 101.

        Where `drain`, a `drain` frame makes it leave (close 1000) and come back after its `reconnect_after_ms`. Where
        `resume`, a turn that was under way is taken up: `resume` from the last place seen, or, where no `accepted`
        had come, the same frame again. Histogram `resumed`: from the loss to `resumed` or `snapshot`. With no
        targets, nothing comes back from now on.
        """

    def stop_reading(self, numbers: Sequence[int]) -> None:
        """They read nothing from now on: their receive windows fill and shut."""

    def read_on(self, numbers: Sequence[int]) -> None:
        """They read again, also what has waited; in the next `run`."""

    def end(self, numbers: Sequence[int], how: Ending) -> None:
        """Ends them now. `close`: a close frame (1000), then waits for the other side's within `run`; `fin`: close(2);
        `rst`: SO_LINGER 0; `half`: shuts our side and reads on; `mid-frame`: half of a frame, then close(2); `abandon`:
        half of a frame, then a reset. Those that are not open are passed over. No come-back.
        """

    # --- work -----------------------------------------------------------------------------------------------------

    def send(
        self,
        numbers: Sequence[int],
        payload: bytes,
        *,
        count: int,
        rate: float = 0.0,
        at_once: int = 0,
        poisson: bool = False,
        begin_ns: int = 0,
        order: Literal["random", "round"] = "random",
        answer: bytes | None = b"",
        stamp_at: int = -1,
        raw: bool = False,
        timeout_s: float = 10.0,
    ) -> int:
        """A job: sends `payload` as a masked text frame `count` times, each on an open one of `numbers`.

        `answer`: the text frame on that connection that begins with it answers the oldest that waits there (b"": any
        text frame); None: nothing is waited for. One of these is tried at a time per connection: jobs that wait for
        different answers on the same connection are answered in order. Histogram `answer`. What was not answered within
        `timeout_s` of being due is counted (`unanswered`). `stamp_at`: the 19 bytes from there are overwritten with the
        moment at which the frame was due as a number: 10**18 + nanoseconds (a valid JSON number, always 19 digits).
        `raw`: the bytes go as they are, on any connection that has a socket, open or not.
        """

    def stamps(self, marker: bytes) -> None:
        """In text frames that contain `marker`, the 19 digits behind it are a moment as `send` stamps it. Histogram
        `stamped`: from then to the frame's arrival. b"": no longer.
        """

    def turns(
        self,
        frames: Sequence[bytes],
        numbers: Sequence[int],
        *,
        rate: float = 0.0,
        at_once: int = 0,
        poisson: bool = False,
        begin_ns: int = 0,
        timeout_s: float = 60.0,
    ) -> int:
        """A job: turn n sends `frames[n]` (JSON of `send`, `regenerate` or `continue`) on connection `numbers[n %
        len]` and is done at its end, an `error` frame before `accepted`, a loss without come-back, or `timeout_s`
        after it was due. One turn at a time is under way on a connection; the others wait there in order. Histograms
        `accepted`, `first` (delta), `end`. What became of each: `turn`.
        """

    def requests(
        self,
        requests: Sequence[bytes],
        classes: Sequence[int],
        numbers: Sequence[int],
        *,
        count: int = 0,
        rate: float = 0.0,
        at_once: int = 0,
        poisson: bool = False,
        begin_ns: int = 0,
        timeout_s: float = 30.0,
    ) -> int:
        """A job: `count` (0: one for each request) HTTP/1.1 requests; piece n writes `requests[n % len]`, of class
        `classes[n % len]` (0-15), on the next free connection of kind `http`; waits in order where none is free. A
        connection that was closed between requests is opened again. Done when the response is whole (Content-Length,
        chunked, or closed at its end). Histograms `http.CLASS` and `http.CLASS.first` (first byte of the body), of
        responses with status below 400; `http.CLASS.failed` of the others. Statuses are counted by class.
        """

    def resume(self, numbers: Sequence[int]) -> None:
        """Sends `resume` for the last turn of each, as `come_back` does."""

    def set_hello(self, numbers: Sequence[int], payload: bytes) -> None:
        """Text frame that each of them sends as soon as it is open, from now on; b"": none."""

    # --- time -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float, *, until: Literal["time", "jobs"] = "jobs") -> bool:
        """Moves everything for at most `seconds`; `jobs`: returns as soon as all jobs are done. Whether they are.

        Does not hold the interpreter's lock. A signal's handler runs at once, and what it raises ends the run.
        """

    def cancel(self) -> None:
        """Drops all jobs; what they have sent and is not answered is forgotten."""

    # --- what came of it ------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, Any]:
        """Counted since the last `reset`: JSON-able. README.md in this folder names every field."""

    def histogram(self, name: str) -> list[tuple[int, int]]:
        """Pairs (index, count) of an HdrHistogram(1, 60_000_000, 3) of microseconds: `latency.from_counts` reads it."""

    def histograms(self) -> dict[str, list[tuple[int, int]]]:
        """All that recorded anything."""

    def reset(self) -> None:
        """Sets histograms and counters to nothing, as well as the CPU clock; what is open or under way stays."""

    def connection(self, number: int) -> dict[str, Any]:
        """`state` (idle, connecting, handshake, open, closing, closed), `status` (HTTP, 0 for none), `code` (close
        code; 1006 for a plain end, 0 while it is open), `error` (errno), `frames` and `bytes` received, `turn` (or
        -1), `port` (local).
        """

    def states(self, numbers: Sequence[int]) -> dict[str, int]:
        """How many of them are in each state."""

    def turn(self, number: int) -> dict[str, Any]:
        """Turn `number` (counted over all jobs, in order): `state` (waiting, sent, accepted, done, cancelled,
        interrupted, failed, error, lost, timeout), `generation`, `epoch`, `seq`, `deltas` and `snapshots` received,
        `chars` and `fnv` (bytes and FNV-1a 64 of the visible text of kind `text`, as it stands in the JSON:
        `latency.fnv1a`), `jumps` (deltas that covered several), `repeats`, `holes` (its end named another last delta),
        `code` (of an error or of a failed end).
        """

    def turn_count(self) -> int: ...
    def close(self) -> None:
        """Closes every socket and frees memory. Idempotent; also done when the engine is collected."""
