cdef class Handshake:
    cdef bytearray received
    cdef Py_ssize_t searched
    cdef object request
    cdef object task
    cdef tuple peer
    cdef bint awaits_proxy

    cdef bint take(self, const unsigned char* data, Py_ssize_t size) except -1
    cdef bytes head(self, Py_ssize_t limit)
    cdef bint take_proxy(self) except -1
