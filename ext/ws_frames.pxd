cdef enum:
    FAILED = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10

cdef bytes frame(int opcode, const unsigned char* payload, Py_ssize_t size)
cdef bytes text_frames(list messages)
cdef const char* utf8(object message, Py_ssize_t* size) except NULL
cpdef bytes encode_close(int code, str reason)
cpdef bint close_code_valid(int code) noexcept

cdef class FrameParser:
    cdef readonly Py_ssize_t max_message
    cdef readonly int max_fragments
    cdef public Py_ssize_t frames
    cdef unsigned char head[14]
    cdef unsigned char control[125]
    cdef int head_have
    cdef int head_need
    cdef bint in_payload
    cdef bint ended
    cdef bint fin
    cdef int opcode
    cdef int message_opcode
    cdef int fragments
    cdef unsigned char* key
    cdef Py_ssize_t length
    cdef Py_ssize_t got
    cdef bytearray message
    cdef unsigned char utf8_need
    cdef unsigned char utf8_low
    cdef unsigned char utf8_high

    cdef list feed_raw(self, unsigned char* data, Py_ssize_t size)
    cdef bint is_idle(self) noexcept
    cdef str start_frame(self)
    cdef Py_ssize_t take_payload(self, unsigned char* data, Py_ssize_t size, list events) except -1
    cdef int finish_frame(self, list events) except -1
    cdef int emit_message(self, list events, const unsigned char* data, Py_ssize_t size) except -1
    cdef int emit_close(self, list events) except -1
    cdef bint valid_text(self, const unsigned char* data, Py_ssize_t size) noexcept
    cdef int fail(self, list events, str violation) except -1
