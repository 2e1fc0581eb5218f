# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""One WebSocket connection on an asyncio transport.

At rest a connection owns no buffer, no task and no timer of its own: bytes arrive in one buffer per loop, a parser
is kept only while a frame or message is incomplete, deadlines are links in the listener's wheel.
"""

import asyncio
import logging
from inspect import isawaitable

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING
from libc.math cimport ceil

from ext.ws_answers import HandshakeError, encode_accept, encode_overloaded, encode_refusal, spread_ms
from ext.ws_frames cimport (
    BINARY, CLOSE, FAILED, PING, PONG, TEXT, FrameParser, close_code_valid, encode_close, frame, text_frames, utf8,
)
from ext.ws_handshake import accept_token, parse_upgrade
from ext.ws_types import Accept, Refuse, Request
from ext.ws_opening cimport Handshake
from ext.ws_rates cimport Metered
from ext.ws_writer cimport Shared, Writer

cdef enum:
    REQUESTING = 0   # the request is incomplete
    AUTHORISING = 1  # the accept callback runs
    OPEN = 2
    CLOSING = 3      # our close frame is sent, the peer's is awaited
    LINGERING = 4    # nothing more is sent or read; the peer's end of the TCP connection is awaited
    GONE = 5

log = logging.getLogger("ext.ws")


async def _authorise(Connection connection, waiting):
    try:
        answer = await waiting
    except Exception:
        log.exception("the accept callback failed")
        answer = Refuse(500)
    connection.answered(answer)


cdef class Connection(Metered):
    """See the stub for the public part. The rest is asyncio's buffered protocol."""

    def __init__(self, Shared shared not None, tuple peer, place=None, bint awaits_proxy=False):
        self.shared = shared
        self.place = place
        self.handshake = Handshake(peer, awaits_proxy)
        self.close_code = 1006
        self.close_reason = ""
        shared.entered()

    # asyncio's side

    def connection_made(self, transport):
        limits = self.shared.limits
        self.transport = transport
        transport.set_write_buffer_limits(limits.write_high, limits.write_low)
        self.last_activity = self.shared.now()
        self.shared.wheel.schedule(self, self.last_activity, limits.handshake_s)

    def get_buffer(self, sizehint):
        return self.shared.read_view

    def buffer_updated(self, Py_ssize_t size):
        self.last_activity = self.shared.now()
        self.pinged = False
        if self.state == OPEN or self.state == CLOSING:
            self.take_frames(self.shared.read_data, size)
        elif self.state == REQUESTING:
            self.take_request(self.shared.read_data, size)
        elif self.state == AUTHORISING:
            self.handshake.received += self.shared.read_data[:size]
            if len(self.handshake.received) > self.shared.limits.message_bytes + 14:
                self.cancel_authorising()
                self.respond(HandshakeError(400, "data before the handshake's answer").encode())

    def eof_received(self):
        # A peer that has shut down its sending side can neither pong nor close: the transport closes when all is sent,
        # and the deadline bounds the wait for that.
        self.flush()
        if self.state == OPEN or self.state == CLOSING:
            self.state = LINGERING
            self.shared.wheel.schedule(self, self.shared.now(), self.shared.close_s)
        return False

    def pause_writing(self):
        self.write_paused = True
        self.paused_since = self.shared.now()
        if self.state == OPEN:
            if self.due * self.shared.wheel.tick_s > self.paused_since + self.shared.stuck_s:
                self.shared.wheel.schedule(self, self.paused_since, self.shared.stuck_s)
            try:
                self.handler.pause_writing()
            except Exception:
                self.handler_failed()

    def resume_writing(self):
        cdef bytes payload = self.unanswered
        self.write_paused = self.pinged = False
        if self.state == OPEN:
            if payload is not None:
                self.unanswered = None
                self.answer_ping(payload)
            try:
                self.handler.resume_writing()
            except Exception:
                self.handler_failed()

    def connection_lost(self, error):
        handler = self.handler
        if self.state == GONE:
            return
        self.state = GONE
        self.shared.wheel.cancel(self)
        self.cancel_authorising()
        self.transport = self.handler = self.handshake = self.parser = self.out = self.unanswered = None
        self.out_bytes = 0
        if handler is not None:
            self.tell_closed(handler, self.close_code, self.close_reason)
        if self.place is not None:
            self.shared.door.leave(self.place)
            self.place = None
        self.shared.left()

    # The handshake

    cdef int take_request(self, const unsigned char* data, Py_ssize_t size) except -1:
        cdef bytes head
        try:
            if self.handshake.take(data, size) and self.shared.door is not None:
                self.come_from(self.handshake.peer)
            head = self.handshake.head(self.shared.limits.handshake_bytes)
            if head is not None:
                self.authorise(head)
        except HandshakeError as refused:
            self.respond(refused.encode())
        return 0

    cdef int authorise(self, bytes head) except -1:
        cdef Shared shared = self.shared
        path, query, headers = parse_upgrade(head, shared.limits.headers)
        if shared.door is not None and self.place is None:
            self.come_from(shared.door.client(self.handshake.peer, headers))
        offered = headers.get("sec-websocket-protocol", "").split(",")
        request = Request(
            path, query, headers, tuple([name for name in map(str.strip, offered) if name]), self.handshake.peer
        )
        if shared.draining or shared.authorising >= shared.limits.authorising:
            return self.respond(overloaded(shared.limits))
        self.state = AUTHORISING
        self.handshake.request = request
        try:
            answer = shared.accept(request)
        except Exception:
            log.exception("the accept callback failed")
            answer = Refuse(500)
        # Only who waits costs a task.
        if isinstance(answer, (Accept, Refuse)) or not isawaitable(answer):
            return self.answered(answer)
        self.handshake.task = shared.start(_authorise(self, answer), answer)
        return 0

    cdef int come_from(self, tuple peer) except -1:
        # A proxy's client is known: it is counted instead of the proxy.
        self.place = self.shared.door.let_in(peer[0], self.shared.limits.retry_after_max_s)
        self.handshake.peer = peer
        return 0

    cdef int cancel_authorising(self) except -1:
        if self.handshake is not None and self.handshake.task is not None:
            self.handshake.task.cancel()
            self.handshake.task = None
        return 0

    cdef int respond(self, bytes answer) except -1:
        self.handshake = None
        self.queue(answer)
        return self.linger()

    cdef int answered(self, object answer) except -1:
        cdef bytes encoded
        cdef object request
        if self.state != AUTHORISING:
            if isinstance(answer, Accept):
                self.tell_closed(answer.handler, 1006, "")
            return 0
        request = self.handshake.request
        self.handshake.task = None
        try:
            if isinstance(answer, Refuse):
                encoded = encode_refusal(answer.status, answer.headers, answer.body)
                return self.respond(encoded)
            if not isinstance(answer, Accept):
                raise TypeError(f"accept returned {type(answer).__name__}, not Accept or Refuse")
            if answer.subprotocol is not None and answer.subprotocol not in request.subprotocols:
                raise ValueError(f"subprotocol {answer.subprotocol!r} was not offered")
            token = accept_token(request.headers["sec-websocket-key"])
            encoded = encode_accept(token, answer.subprotocol, answer.headers)
        except Exception:
            log.exception("the accept callback's answer cannot be sent")
            self.respond(encode_refusal(500, (), b""))
            if isinstance(answer, Accept):
                self.tell_closed(answer.handler, 1006, "")
            return 0
        return self.opened(answer.handler, encoded)

    cdef int opened(self, object handler, bytes answer) except -1:
        cdef Shared shared = self.shared
        cdef Handshake handshake = self.handshake
        self.state = OPEN
        self.handler = handler
        self.bytes_until = self.frames_until = self.last_activity
        self.queue(answer)
        # Spread over the interval: after a storm of reconnects the pings must not come as a storm too.
        shared.wheel.schedule(self, shared.now(), shared.ping_s * (1 + shared.spread()) / 2)
        try:
            handler.on_open(self)
        except Exception:
            self.handler_failed()
        self.handshake = None
        if handshake.received and (self.state == OPEN or self.state == CLOSING):
            self.take_frames(<unsigned char*>PyByteArray_AS_STRING(handshake.received), len(handshake.received))
        return 0

    # Receiving

    cdef int take_frames(self, unsigned char* data, Py_ssize_t size) except -1:
        cdef Shared shared = self.shared
        cdef FrameParser parser = self.parser if self.parser is not None else shared.spare
        cdef bint inside = parser.message_opcode != 0
        cdef list events
        if self.too_many_bytes(size, self.last_activity):
            return self.overran("bytes", shared.bytes_slack)
        parser.frames = 0
        events = parser.feed_raw(data, size)
        if self.parser is None:
            if not parser.is_idle():
                self.parser = parser
                self.message_since = self.last_activity
                shared.spare = FrameParser(parser.max_message, parser.max_fragments)
        elif parser.is_idle():
            self.parser = None
        elif events and not (inside and all_control(events)):
            self.message_since = self.last_activity
        if not self.too_many_frames(parser.frames, self.last_activity):
            return self.deliver(events)
        self.deliver(self.allowed(events, parser.frames, self.last_activity))
        return self.overran("frames", shared.frames_slack)

    cdef int overran(self, str what, double refill_s) except -1:
        cdef long wait_ms = <long>ceil(1000 * refill_s)
        if self.state == OPEN:
            try:
                self.handler.on_overrun(what, wait_ms)
            except Exception:
                self.handler_failed()
        if self.state == OPEN:
            self.fail(4429, f"too many {what}; retry_after_ms={wait_ms}")
        elif self.state == CLOSING:
            self.linger()
        return 0

    cdef int deliver(self, list events) except -1:
        cdef int kind
        try:
            for kind, value in events:
                if kind == CLOSE:
                    self.peer_closed(value[0], value[1])
                elif self.state != OPEN:
                    if kind == FAILED and self.state == CLOSING:
                        self.linger()
                elif kind == TEXT:
                    self.handler.on_text(value)
                elif kind == BINARY:
                    self.handler.on_binary(value)
                elif kind == PING:
                    self.answer_ping(value)
                elif kind == FAILED:
                    self.fail(value[0], value[1])
        except Exception:
            self.handler_failed()
        return 0

    cdef int answer_ping(self, bytes payload) except -1:
        # A peer that pings and does not read is owed one pong, for its last ping (RFC 6455 section 5.5.3).
        if self.write_paused:
            self.unanswered = payload
            return 0
        return self.queue(frame(PONG, <const unsigned char*>PyBytes_AS_STRING(payload), len(payload)))

    # Closing

    cdef int peer_closed(self, int code, str reason) except -1:
        if self.state == OPEN:
            self.state = CLOSING
            self.close_code = code
            self.close_reason = reason
            self.queue(encode_close(code, ""))
        self.flush()
        self.state = LINGERING
        if self.transport is not None:
            self.shared.wheel.schedule(self, self.shared.now(), self.shared.close_s)
            self.transport.close()
        return 0

    cdef int fail(self, int code, str reason) except -1:
        if self.state == OPEN:
            self.state = CLOSING
            self.close_code = code
            self.close_reason = reason
            self.queue(encode_close(code, reason))
        return self.linger()

    cdef int handler_failed(self) except -1:
        log.exception("a WebSocket handler failed")
        if self.state == OPEN:
            self.fail(1011, "internal error")
        return 0

    cdef int tell_closed(self, object handler, int code, str reason) except -1:
        try:
            handler.on_close(code, reason)
        except Exception:
            log.exception("a WebSocket handler failed in on_close")
        return 0

    cdef int linger(self) except -1:
        # Closing a socket with unread bytes resets it, and the reset may overtake our last words: so our half is
        # closed, what still comes is dropped, and the deadline bounds the wait for the peer's end.
        self.flush()
        self.state = LINGERING
        self.parser = None
        if self.transport is None:
            return 0
        self.shared.wheel.schedule(self, self.shared.now(), self.shared.close_s)
        try:
            if self.read_paused:
                self.transport.resume_reading()
            self.transport.write_eof()
        except Exception:
            self.drop()
        return 0

    cdef int overflowed(self) except -1:
        if self.state == OPEN:
            self.close_code = 4408
            self.close_reason = "reads too slowly"
        return self.drop()

    cdef int drop(self) except -1:
        if self.state != GONE:
            self.state = LINGERING
            self.parser = None
            Writer.drop(self)
        return 0

    # Deadlines

    cpdef fire(self):
        if self.state == REQUESTING:
            self.respond(HandshakeError(408, "the handshake took too long").encode())
        elif self.state == AUTHORISING:
            self.cancel_authorising()
            self.respond(overloaded(self.shared.limits))
        elif self.state == OPEN:
            self.heartbeat()
        else:
            self.drop()

    cdef int heartbeat(self) except -1:
        cdef Shared shared = self.shared
        cdef double now = shared.now(), silence = now - self.last_activity
        cdef Py_ssize_t unsent = self.transport.get_write_buffer_size() if self.write_paused else 0
        if self.write_paused and now - self.paused_since >= shared.stuck_s:
            return self.fail(4408, "reads too slowly")
        if self.pinged and not self.read_paused and not unsent < self.unsent:
            return self.fail(4408, "heartbeat missed")
        self.unsent = unsent
        if self.parser is not None and not self.read_paused and now - self.message_since > shared.message_s:
            return self.fail(4408, "message takes too long")
        if 2 * silence < shared.ping_s:
            # A little early, each by another part: who was heard at one moment, after a stall, need not be for ever.
            self.beat_in((shared.ping_s - silence) * (1 - shared.spread() / 4), now)
            return 0
        # A peer that is behind gets no ping on top: that it takes bytes is a sign of life too.
        if not self.write_paused:
            self.queue(frame(PING, NULL, 0))
        self.pinged = True
        return self.beat_in(shared.pong_s, now)

    cdef int beat_in(self, double delay, double now) except -1:
        # The next heartbeat, earlier where the peer's time to catch up ends before.
        if self.write_paused:
            delay = min(delay, max(0.0, self.paused_since + self.shared.stuck_s - now))
        self.shared.wheel.schedule(self, now, delay)
        return 0

    # Sending

    def send_text(self, message not None):
        cdef Py_ssize_t size = 0
        cdef const char* text
        if self.state == OPEN:
            text = utf8(message, &size)
            self.queue(frame(TEXT, <const unsigned char*>text, size))

    def send_binary(self, bytes message not None):
        if self.state == OPEN:
            self.queue(frame(BINARY, <const unsigned char*>PyBytes_AS_STRING(message), len(message)))

    def send_encoded(self, bytes frames not None):
        if self.state == OPEN and frames:
            self.queue(frames)

    def send_many(self, messages not None):
        cdef list kept = list(messages)
        if self.state == OPEN and kept:
            self.queue(text_frames(kept))

    def ping(self, bytes payload not None=b""):
        if len(payload) > 125:
            raise ValueError("a ping carries at most 125 bytes")
        if self.state == OPEN:
            self.queue(frame(PING, <const unsigned char*>PyBytes_AS_STRING(payload), len(payload)))

    def close(self, int code=1000, str reason not None=""):
        if not close_code_valid(code):
            raise ValueError(f"close code {code} may not be sent")
        if self.state == OPEN:
            self.state = CLOSING
            self.close_code = code
            self.close_reason = reason
            self.queue(encode_close(code, reason))
            self.shared.wheel.schedule(self, self.shared.now(), self.shared.close_s)
            self.resume_reading()

    def abort(self):
        self.drop()

    def close_any(self, int code, str reason):
        """End the connection whatever its state: a close frame if it is open, 503 during its handshake."""
        if self.state == OPEN:
            self.close(code, reason)
        elif self.state <= AUTHORISING and self.transport is not None:
            if self.handshake.task is not None:
                self.cancel_authorising()
            self.respond(overloaded(self.shared.limits))

    def pause_reading(self):
        if self.state == OPEN and not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def resume_reading(self):
        if self.read_paused and self.transport is not None:
            self.read_paused = self.pinged = False
            self.message_since = self.shared.now()
            self.transport.resume_reading()

    @property
    def buffered(self):
        return self.out_bytes + (0 if self.transport is None else self.transport.get_write_buffer_size())

    @property
    def closing(self):
        return self.state > OPEN

    @property
    def peer(self):
        address = None if self.transport is None else self.transport.get_extra_info("peername")
        return ("", 0) if address is None else address[:2]

    @property
    def request(self):
        return None if self.handshake is None else self.handshake.request


cdef bint all_control(list events) except -1:
    cdef int kind
    for kind, _ in events:
        if kind == TEXT or kind == BINARY:
            return False
    return True


def overloaded(limits):
    """The answer to a handshake for which there is no room now."""
    return encode_overloaded(spread_ms(limits.retry_after_s))


class BufferedConnection(Connection, asyncio.BufferedProtocol):
    """A Connection that asyncio recognises as a buffered protocol."""

    __slots__ = ()
