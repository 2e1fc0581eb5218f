# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The request that opens a WebSocket (RFC 6455 section 4.2.1, RFC 9112), from bytes to a checked result.

`ext.ws_reference` has the same functions in plain Python; a property test holds both to the same results.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeLatin1
from libc.string cimport memchr, memcmp

from base64 import b64encode
from hashlib import sha1

from ext.ws_answers import HandshakeError, bad_request, upgrade_required

cdef enum:
    IS_TOKEN = 1
    IS_VALUE = 2
    IS_VISIBLE = 4
    IS_BASE64 = 8

cdef unsigned char KINDS[256]
cdef unsigned char LOWER[256]


cdef int fill_tables() except -1:
    cdef int byte
    for byte in range(256):
        character = chr(byte)
        alphanumeric = byte < 128 and character.isalnum()
        KINDS[byte] = (
            (IS_TOKEN if alphanumeric or character in "!#$%&'*+-.^_`|~" else 0)
            | (IS_VALUE if byte == 9 or 32 <= byte != 127 else 0)
            | (IS_VISIBLE if 33 <= byte <= 126 else 0)
            | (IS_BASE64 if alphanumeric or character in "+/" else 0)
        )
        LOWER[byte] = byte + 32 if 65 <= byte <= 90 else byte
    return 0


fill_tables()

cdef frozenset SINGLE = frozenset(
    ("host", "origin", "authorization", "content-length", "sec-websocket-key", "sec-websocket-version")
)


cdef bint all_of(const unsigned char* text, Py_ssize_t size, int kind) noexcept:
    cdef Py_ssize_t at
    for at in range(size):
        if not KINDS[text[at]] & kind:
            return False
    return True


cdef tuple request_target(const unsigned char* line, Py_ssize_t size):
    # Method SP target SP version; everything but the target is fixed.
    cdef const unsigned char* first = <const unsigned char*>memchr(line, c" ", size)
    cdef const unsigned char* target
    cdef const unsigned char* version
    cdef Py_ssize_t length
    if first == NULL or first == line or not all_of(line, first - line, IS_TOKEN):
        raise bad_request("malformed request line")
    target = first + 1
    version = <const unsigned char*>memchr(target, c" ", line + size - target)
    if version == NULL or version == target or not all_of(target, version - target, IS_VISIBLE):
        raise bad_request("malformed request line")
    length = line + size - version - 1
    if length != 8 or memcmp(version + 1, b"HTTP/", 5) != 0 or version[7] != c"." \
            or not 48 <= version[6] <= 57 or not 48 <= version[8] <= 57:
        raise bad_request("malformed request line")
    if first - line != 3 or memcmp(line, b"GET", 3) != 0:
        raise HandshakeError(405, "a WebSocket is opened with GET", (("Allow", "GET"),))
    if version[6] != c"1" or version[8] != c"1":
        raise HandshakeError(505, "HTTP/1.1 is needed")
    return split_target(PyUnicode_DecodeASCII(<const char*>target, version - target, NULL))


cdef tuple split_target(str target):
    cdef str path, query, rest
    if not target.startswith("/"):
        scheme, found, rest = target.partition("://")
        if not found or scheme.lower() not in ("http", "https"):
            raise bad_request("the request target is neither a path nor an http URI")
        cut = min([at for at in (rest.find("/"), rest.find("?"), rest.find("#")) if at >= 0], default=len(rest))
        target = rest[cut:] if rest[cut:cut + 1] == "/" else "/" + rest[cut:]
    if "#" in target:
        raise bad_request("the request target has a fragment")
    path, _, query = target.partition("?")
    return path, query


cdef str lower_name(const unsigned char* text, Py_ssize_t size):
    cdef unsigned char small[64]
    cdef Py_ssize_t at
    if size > 64:
        return PyUnicode_DecodeASCII(<const char*>text, size, NULL).lower()
    for at in range(size):
        small[at] = LOWER[text[at]]
    return PyUnicode_DecodeASCII(<const char*>small, size, NULL)


cdef int add_header(dict headers, const unsigned char* line, Py_ssize_t size) except -1:
    cdef const unsigned char* colon = <const unsigned char*>memchr(line, c":", size)
    cdef Py_ssize_t start, stop = size
    cdef str name, value
    if colon == NULL or colon == line or not all_of(line, colon - line, IS_TOKEN):
        raise bad_request("malformed header name")
    start = colon - line + 1
    while start < stop and (line[start] == c" " or line[start] == c"\t"):
        start += 1
    while stop > start and (line[stop - 1] == c" " or line[stop - 1] == c"\t"):
        stop -= 1
    if not all_of(line + start, stop - start, IS_VALUE):
        raise bad_request("malformed header value")
    name = lower_name(line, colon - line)
    value = PyUnicode_DecodeLatin1(<const char*>line + start, stop - start, NULL)
    if name not in headers:
        headers[name] = value
    elif name in SINGLE:
        raise bad_request(f"header {name} is repeated")
    else:
        headers[name] += ("; " if name == "cookie" else ", ") + value
    return 0


cdef bint has_token(str value, str token):
    for part in value.split(","):
        if part.strip(" \t").lower() == token:
            return True
    return False


cdef bint key_valid(str key):
    # 16 bytes are 22 characters and two of padding; the last character's spare bits may be anything.
    if len(key) != 24 or not key.isascii() or not key.endswith("=="):
        return False
    cdef bytes text = key.encode("ascii")
    return all_of(<const unsigned char*>PyBytes_AS_STRING(text), 22, IS_BASE64)


cdef int check_upgrade(dict headers) except -1:
    if not headers.get("host"):
        raise bad_request("header host is missing")
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise bad_request("a WebSocket handshake has no body")
    if not has_token(headers.get("upgrade", ""), "websocket"):
        raise upgrade_required("this is a WebSocket endpoint")
    if not has_token(headers.get("connection", ""), "upgrade"):
        raise bad_request("header connection does not say upgrade")
    if headers.get("sec-websocket-version") != "13":
        raise upgrade_required("WebSocket version 13 is needed")
    if not key_valid(headers.get("sec-websocket-key", "")):
        raise bad_request("header sec-websocket-key is not 16 bytes in base64")
    return 0


def parse_upgrade(bytes head not None, Py_ssize_t max_headers):
    """Path, query and headers (by lower-case name) of a request `head`, which ends with its empty line.

    Raises HandshakeError for anything that is not a valid upgrade to WebSocket version 13.
    """
    cdef const unsigned char* line = <const unsigned char*>PyBytes_AS_STRING(head)
    cdef const unsigned char* end = line + len(head)
    cdef const unsigned char* stop
    cdef dict headers = {}
    cdef tuple target = None
    cdef Py_ssize_t count = 0
    while True:
        stop = line_end(line, end)
        if stop == NULL:
            raise bad_request("the request does not end")
        if target is None:
            target = request_target(line, stop - line)
        elif stop == line:
            break
        elif count > max_headers:
            raise HandshakeError(431, f"more than {max_headers} headers")
        else:
            add_header(headers, line, stop - line)
        line = stop + 2
        count += 1
    check_upgrade(headers)
    return target[0], target[1], headers


cdef const unsigned char* line_end(const unsigned char* at, const unsigned char* end) noexcept:
    # The CR of the next CR LF, or NULL.
    while True:
        at = <const unsigned char*>memchr(at, c"\r", end - at)
        if at == NULL or end - at < 2:
            return NULL
        if at[1] == c"\n":
            return at
        at += 1


def accept_token(str key not None):
    """The value of Sec-WebSocket-Accept that answers a Sec-WebSocket-Key."""
    return b64encode(sha1(key.encode("ascii") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest())
