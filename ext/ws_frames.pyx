# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""RFC 6455 frames: a parser for what clients send, an encoder for what a server sends. No I/O, no clock.

`ext.ws_reference` has the same functions and class in plain Python; a property test holds both to the same results.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from ext.ws_answers import failure

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef uint64_t NON_ASCII = 0x8080808080808080


cdef void xor_mask(unsigned char* data, Py_ssize_t size, const unsigned char* key, Py_ssize_t offset) noexcept nogil:
    cdef unsigned char turned[8]
    cdef uint64_t word, mask
    cdef Py_ssize_t at = 0
    cdef int i
    for i in range(8):
        turned[i] = key[(offset + i) & 3]
    memcpy(&mask, turned, 8)
    while size - at >= 8:
        memcpy(&word, data + at, 8)
        word ^= mask
        memcpy(data + at, &word, 8)
        at += 8
    while at < size:
        data[at] ^= turned[at & 7]
        at += 1


def mask(const unsigned char[::1] data not None, const unsigned char[::1] key not None, Py_ssize_t offset=0):
    """`data` XOR the four bytes of `key`, which begins at its byte `offset` modulo 4. ValueError for another key."""
    if key.shape[0] != 4:
        raise ValueError("a masking key has four bytes")
    cdef Py_ssize_t size = data.shape[0]
    if size == 0:
        return b""
    # Allocated empty: bytes that are made from one character are shared, and must not be written to.
    cdef bytes result = PyBytes_FromStringAndSize(NULL, size)
    memcpy(PyBytes_AS_STRING(result), &data[0], size)
    xor_mask(<unsigned char*>PyBytes_AS_STRING(result), size, &key[0], offset & 3)
    return result


cpdef bint close_code_valid(int code) noexcept:
    """Whether a close frame may carry `code`."""
    return 3000 <= code <= 4999 or 1000 <= code <= 1003 or 1007 <= code <= 1014


cdef Py_ssize_t header_size(Py_ssize_t size) noexcept nogil:
    return 2 if size < 126 else 4 if size < 65536 else 10


cdef void write_header(unsigned char* to, int opcode, Py_ssize_t size) noexcept nogil:
    cdef int i
    to[0] = 0x80 | opcode
    if size < 126:
        to[1] = size
    elif size < 65536:
        to[1] = 126
        to[2] = size >> 8
        to[3] = size & 255
    else:
        to[1] = 127
        for i in range(8):
            to[2 + i] = (size >> (56 - 8 * i)) & 255


cdef bytes frame(int opcode, const unsigned char* payload, Py_ssize_t size):
    cdef Py_ssize_t header = header_size(size)
    cdef bytes result = PyBytes_FromStringAndSize(NULL, header + size)
    cdef unsigned char* to = <unsigned char*>PyBytes_AS_STRING(result)
    write_header(to, opcode, size)
    if size:
        memcpy(to + header, payload, size)
    return result


cdef bytes text_frames(list messages):
    # Whole text frames, one behind the other; each message is a str or bytes that are UTF-8.
    cdef Py_ssize_t total = 0, size = 0
    cdef const char* text
    cdef unsigned char* to
    for message in messages:
        utf8(message, &size)
        total += header_size(size) + size
    cdef bytes result = PyBytes_FromStringAndSize(NULL, total)
    to = <unsigned char*>PyBytes_AS_STRING(result)
    for message in messages:
        text = utf8(message, &size)
        write_header(to, TEXT, size)
        to += header_size(size)
        memcpy(to, text, size)
        to += size
    return result


cdef const char* utf8(object message, Py_ssize_t* size) except NULL:
    if type(message) is bytes:
        size[0] = len(<bytes>message)
        return PyBytes_AS_STRING(message)
    return PyUnicode_AsUTF8AndSize(message, size)


def encode_frame(int opcode, bytes payload not None):
    """One whole, unmasked frame. ValueError for a control frame of more than 125 bytes."""
    if opcode >= CLOSE and len(payload) > 125:
        raise ValueError("a control frame has at most 125 bytes")
    return frame(opcode, <const unsigned char*>PyBytes_AS_STRING(payload), len(payload))


cpdef bytes encode_close(int code, str reason):
    """A close frame; `reason` is cut to 123 bytes at a character. Code 1005 makes one without a body.

    Raises ValueError for a code that may not be sent."""
    if code == 1005:
        return b"\x88\x00"
    if not close_code_valid(code):
        raise ValueError(f"close code {code} may not be sent")
    cdef bytes text = reason.encode("utf-8", "replace")[:123].decode("utf-8", "ignore").encode()
    cdef bytes body = code.to_bytes(2, "big") + text
    return frame(CLOSE, <const unsigned char*>PyBytes_AS_STRING(body), len(body))


cdef class FrameParser:
    """The frames of one client, from bytes in pieces of any size.

    `feed` returns events `(kind, value)`: TEXT str, BINARY bytes, PING bytes, PONG bytes, CLOSE `(code, reason)`
    with 1005 for an empty body, FAILED `(code, reason)` for a violation, at its first byte that shows it.
    After CLOSE or FAILED everything is ignored. Memory grows with what has arrived, never with what was announced.
    """

    def __init__(self, Py_ssize_t max_message, int max_fragments):
        self.max_message = max_message
        self.max_fragments = max_fragments
        self.head_need = 2

    def feed(self, const unsigned char[::1] data not None):
        """Take bytes; return the events that they complete, in order."""
        cdef bytearray copy = bytearray(data)
        return self.feed_raw(<unsigned char*>PyByteArray_AS_STRING(copy), len(copy))

    @property
    def idle(self):
        """Whether nothing is incomplete: no state beyond the limits."""
        return self.is_idle()

    cdef bint is_idle(self) noexcept:
        return self.head_have == 0 and not self.in_payload and self.message_opcode == 0 and not self.ended

    cdef list feed_raw(self, unsigned char* data, Py_ssize_t size):
        # Unmasks in place: `data` belongs to the parser until it returns.
        cdef list events = []
        cdef Py_ssize_t at = 0, part
        cdef str refused
        while not self.ended:
            if not self.in_payload:
                if at == size:
                    break
                part = min(self.head_need - self.head_have, size - at)
                memcpy(self.head + self.head_have, data + at, part)
                self.head_have += part
                at += part
                if self.head_have < self.head_need:
                    break
                refused = self.start_frame()
                if refused is not None:
                    self.fail(events, refused)
            elif self.got < self.length and at == size:
                break
            else:
                at += self.take_payload(data + at, size - at, events)
        return events

    cdef str start_frame(self):
        # Called when head_need bytes of the header are there; returns what is wrong with them, or None.
        cdef int first = self.head[0], short = self.head[1] & 127, opcode = first & 15, extended, i
        cdef uint64_t length
        if self.head_need == 2:
            if first & 0x70:
                return "rsv"
            if opcode > 10 or 3 <= opcode <= 7:
                return "opcode"
            if not self.head[1] & 0x80:
                return "unmasked"
            if opcode >= CLOSE and (not first & 0x80 or short > 125):
                return "control"
            if opcode < CLOSE and (opcode == 0) != (self.message_opcode != 0):
                return "continuation"
            self.head_need = 6 if short < 126 else 8 if short == 126 else 14
            return None
        extended = self.head_need - 6
        length = short if extended == 0 else 0
        for i in range(extended):
            length = (length << 8) | self.head[2 + i]
        if (extended == 2 and length < 126) or (extended == 8 and (length < 65536 or length >> 63)):
            return "length"
        if opcode < CLOSE:
            if length > <uint64_t>(self.max_message - (0 if self.message is None else len(self.message))):
                return "size"
            if self.fragments >= self.max_fragments:
                return "fragments"
            self.fragments += 1
            if opcode:
                self.message_opcode = opcode
        self.opcode = opcode
        self.fin = first & 0x80
        self.key = self.head + 2 + extended
        self.length = length
        self.got = 0
        self.in_payload = True
        return None

    cdef Py_ssize_t take_payload(self, unsigned char* data, Py_ssize_t size, list events) except -1:
        cdef Py_ssize_t part = min(self.length - self.got, size), have
        cdef unsigned char* to
        cdef bint whole = part == self.length
        if self.opcode >= CLOSE:
            memcpy(self.control + self.got, data, part)
            xor_mask(self.control + self.got, part, self.key, self.got & 3)
        elif whole and self.fin and self.message is None:
            xor_mask(data, part, self.key, 0)
            self.frames += 1
            self.in_payload = False
            self.head_have = 0
            self.head_need = 2
            self.emit_message(events, data, part)
            return part
        elif part:
            if self.message is None:
                self.message = bytearray()
            have = len(self.message)
            PyByteArray_Resize(self.message, have + part)
            to = <unsigned char*>PyByteArray_AS_STRING(self.message) + have
            memcpy(to, data, part)
            xor_mask(to, part, self.key, self.got & 3)
            if self.message_opcode == TEXT and not self.valid_text(to, part):
                self.fail(events, "utf8")
                return part
        self.got += part
        if self.got == self.length:
            self.finish_frame(events)
        return part

    cdef int finish_frame(self, list events) except -1:
        self.frames += 1
        self.in_payload = False
        self.head_have = 0
        self.head_need = 2
        if self.opcode == CLOSE:
            return self.emit_close(events)
        if self.opcode > CLOSE:
            events.append((self.opcode, PyBytes_FromStringAndSize(<const char*>self.control, self.length)))
        elif self.fin:
            if self.message is None:
                return self.emit_message(events, NULL, 0)
            self.emit_message(
                events, <unsigned char*>PyByteArray_AS_STRING(self.message), len(self.message)
            )
        return 0

    cdef int emit_message(self, list events, const unsigned char* data, Py_ssize_t size) except -1:
        cdef int opcode = self.message_opcode
        if opcode == BINARY:
            events.append((BINARY, PyBytes_FromStringAndSize(<const char*>data, size)))
        else:
            try:
                events.append((TEXT, PyUnicode_DecodeUTF8(<const char*>data, size, "strict") if size else ""))
            except UnicodeDecodeError:
                return self.fail(events, "utf8")
        self.message_opcode = 0
        self.fragments = 0
        self.message = None
        self.utf8_need = 0
        return 0

    cdef int emit_close(self, list events) except -1:
        cdef int code
        if self.length == 0:
            events.append((CLOSE, (1005, "")))
        elif self.length == 1:
            return self.fail(events, "close")
        else:
            code = self.control[0] << 8 | self.control[1]
            if not close_code_valid(code):
                return self.fail(events, "close")
            try:
                reason = PyUnicode_DecodeUTF8(<const char*>self.control + 2, self.length - 2, "strict")
            except UnicodeDecodeError:
                return self.fail(events, "utf8")
            events.append((CLOSE, (code, reason)))
        self.ended = True
        self.message = None
        return 0

    cdef int fail(self, list events, str violation) except -1:
        events.append((FAILED, failure(violation)))
        self.ended = True
        self.message = None
        return 0

    cdef bint valid_text(self, const unsigned char* data, Py_ssize_t size) noexcept:
        # Well-formedness byte by byte across pieces (Unicode 15, table 3-7), so that a bad byte is seen when it arrives.
        cdef Py_ssize_t at = 0
        cdef unsigned char byte
        cdef uint64_t word
        while at < size:
            if self.utf8_need == 0:
                while size - at >= 8:
                    memcpy(&word, data + at, 8)
                    if word & NON_ASCII:
                        break
                    at += 8
                if at == size:
                    break
            byte = data[at]
            at += 1
            if self.utf8_need:
                if byte < self.utf8_low or byte > self.utf8_high:
                    return False
                self.utf8_need -= 1
                self.utf8_low = 0x80
                self.utf8_high = 0xBF
            elif byte >= 0x80:
                if byte < 0xC2 or byte > 0xF4:
                    return False
                self.utf8_need = 1 if byte < 0xE0 else 2 if byte < 0xF0 else 3
                self.utf8_low = 0xA0 if byte == 0xE0 else 0x90 if byte == 0xF0 else 0x80
                self.utf8_high = 0x9F if byte == 0xED else 0x8F if byte == 0xF4 else 0xBF
        return True
