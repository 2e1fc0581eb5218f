cdef class Handshake:
    cdef bytearray received
    cdef Py_ssize_t searched
    cdef object request
    cdef object task
    cdef tuple peer
    cdef bint awaits_proxy

    cdef bytes head(self, const unsigned char* data, Py_ssize_t size, Py_ssize_t limit)
    cdef bint take_proxy(self) except -1
