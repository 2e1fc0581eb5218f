# cython: language_level=3
"""What a connection needs until it is open, and how its request is cut from the bytes that come."""

from ext.ws_answers import HandshakeError
from ext.ws_proxy import ProxyError, parse_proxy


cdef class Handshake:
    """The request so far, then what arrived after it. `awaits_proxy`: a PROXY header comes before it."""

    def __cinit__(self, tuple peer, bint awaits_proxy):
        self.received = bytearray()
        self.peer = peer
        self.awaits_proxy = awaits_proxy

    cdef bint take(self, const unsigned char* data, Py_ssize_t size) except -1:
        # Take bytes; returns whether a PROXY header was completed by them. Raises HandshakeError.
        self.received += data[:size]
        return self.awaits_proxy and self.take_proxy()

    cdef bytes head(self, Py_ssize_t limit):
        # The request once its empty line is there, else None. Raises HandshakeError.
        cdef bytearray received = self.received
        cdef Py_ssize_t end
        if self.awaits_proxy or not received:
            return None
        if not 65 <= received[0] <= 90:
            # No method begins like this: who speaks TLS, say, need not wait for the deadline to be told.
            raise HandshakeError(400, "this is no HTTP request")
        end = received.find(b"\r\n\r\n", max(0, self.searched - 3))
        self.searched = len(received)
        if (end + 4 if end >= 0 else len(received)) > limit:
            raise HandshakeError(431, f"the handshake is longer than {limit} bytes")
        if end < 0:
            return None
        head = bytes(memoryview(received)[:end + 4])
        del received[:end + 4]
        return head

    cdef bint take_proxy(self) except -1:
        # Whether the PROXY header is complete: then it is cut off, and the peer is whom it names.
        try:
            found = parse_proxy(self.received)
        except ProxyError as error:
            raise HandshakeError(400, str(error))
        if found is None:
            return False
        size, client = found
        del self.received[:size]
        self.awaits_proxy = False
        if client is not None:
            self.peer = client
        return True
