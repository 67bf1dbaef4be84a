# cython: language_level=3
"""The fast paths of portico.wire.scan: same arguments and results; where it returns None, the caller takes the long way.

Bytes objects end with a NUL, which no table admits: a scan stops there by itself.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memcmp, memcpy

cdef enum:
    TOKEN = 1  # RFC 9110 §5.6.2
    TEXT = 2  # of a field's value: RFC 9110 §5.5
    PATH = 4  # of a target, without "?", "#" and "%"
    NAME = 8  # of a host, without brackets and percent signs
    DIGIT = 16

cdef unsigned char KIND[256]
cdef unsigned char LOWER[256]


cdef void _fill() noexcept:
    cdef int c
    cdef unsigned char kind
    for c in range(256):
        kind = 0
        letter = c"a" <= c <= c"z" or c"A" <= c <= c"Z"
        digit = c"0" <= c <= c"9"
        if letter or digit or c in b"!#$%&'*+-.^_`|~":
            kind |= TOKEN
        if c == 9 or 0x20 <= c <= 0x7E or c >= 0x80:
            kind |= TEXT
        if 0x21 <= c <= 0x7E and c not in b"?#%":
            kind |= PATH
        if letter or digit or c in b".-_":
            kind |= NAME
        if digit:
            kind |= DIGIT
        KIND[c] = kind
        LOWER[c] = c + 32 if c"A" <= c <= c"Z" else c


_fill()

cdef object _method(const unsigned char* p, Py_ssize_t size):
    if size == 3:
        if memcmp(p, b"GET", 3) == 0:
            return "GET"
        if memcmp(p, b"PUT", 3) == 0:
            return "PUT"
    elif size == 4:
        if memcmp(p, b"POST", 4) == 0:
            return "POST"
        if memcmp(p, b"HEAD", 4) == 0:
            return "HEAD"
    elif size == 5 and memcmp(p, b"PATCH", 5) == 0:
        return "PATCH"
    elif size == 6 and memcmp(p, b"DELETE", 6) == 0:
        return "DELETE"
    elif size == 7 and memcmp(p, b"OPTIONS", 7) == 0:
        return "OPTIONS"
    return None


cdef bint _is(const unsigned char* p, const char* lower, Py_ssize_t size) noexcept:
    """Whether these bytes are `lower`, in any case."""
    cdef Py_ssize_t i
    for i in range(size):
        if LOWER[p[i]] != <unsigned char> lower[i]:
            return False
    return True


cdef Py_ssize_t _number(const unsigned char* p, const unsigned char* end) noexcept:
    """The decimal number, -1 where it is none or has more than 18 digits."""
    cdef Py_ssize_t value = 0
    if p == end or end - p > 18:
        return -1
    while p < end:
        if not KIND[p[0]] & DIGIT:
            return -1
        value = value * 10 + (p[0] - c"0")
        p += 1
    return value


cdef bint _is_host(const unsigned char* p, const unsigned char* end) noexcept:
    """A name or an IPv4 address and maybe a port; what else a Host may be is for the long way."""
    cdef const unsigned char* start = p
    while p < end and KIND[p[0]] & NAME:
        p += 1
    if p == start:
        return False
    if p < end and p[0] == c":":
        p += 1
        start = p
        if p < end and (end - p > 5 or not 0 <= _number(p, end) <= 65535):
            return False
        p = end
    return p == end


cpdef tuple scan_request(bytes data, Py_ssize_t pos, Py_ssize_t max_bytes, Py_ssize_t max_headers):
    cdef const unsigned char* base = <const unsigned char*> PyBytes_AS_STRING(data)
    cdef const unsigned char* p = base + pos
    cdef const unsigned char* start = p
    cdef const unsigned char* name
    cdef const unsigned char* value
    cdef const unsigned char* end
    cdef const unsigned char* query = NULL
    cdef bint escaped = False, keep_alive = True, hosted = False, connected = False
    cdef bint websocket = False, asked = False, hinted = False
    cdef Py_ssize_t length = -1, size, i
    cdef unsigned char* lower
    cdef list headers = []
    cdef bytes key, target, path, search
    while KIND[p[0]] & TOKEN:
        p += 1
    method = _method(start, p - start)
    if method is None or p[0] != c" ":
        return None
    p += 1
    name = p
    if p[0] != c"/":
        return None
    while True:
        while KIND[p[0]] & PATH:
            p += 1
        if p[0] == c"%":
            escaped = escaped or query == NULL
        elif p[0] == c"?":
            query = p if query == NULL else query
        else:
            break
        p += 1
    if base + PyBytes_GET_SIZE(data) - p < 13 or memcmp(p, b" HTTP/1.1\r\n", 11) != 0:
        return None
    target = PyBytes_FromStringAndSize(<const char*> name, p - name)
    if query == NULL:
        path = target
        search = b""
    else:
        path = PyBytes_FromStringAndSize(<const char*> name, query - name)
        search = PyBytes_FromStringAndSize(<const char*> query + 1, p - query - 1)
    text = None if escaped else PyUnicode_DecodeASCII(PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path), NULL)
    p += 11
    while p[0] != c"\r":
        name = p
        while KIND[p[0]] & TOKEN:
            p += 1
        size = p - name
        if size == 0 or p[0] != c":":
            return None
        p += 1
        while p[0] == c" " or p[0] == c"\t":
            p += 1
        value = p
        while KIND[p[0]] & TEXT:
            p += 1
        if p[0] != c"\r" or p[1] != c"\n":
            return None
        end = p
        while end > value and (end[-1] == c" " or end[-1] == c"\t"):
            end -= 1
        p += 2
        if size == 4:
            if _is(name, b"host", 4):
                if hosted or not _is_host(value, end):
                    return None
                hosted = True
        elif size == 6:
            if _is(name, b"expect", 6):
                return None
        elif size == 7:
            if _is(name, b"upgrade", 7):
                if websocket or end - value != 9 or not _is(value, b"websocket", 9):
                    return None
                websocket = True
        elif size == 10:
            if _is(name, b"connection", 10):
                if connected:
                    return None
                connected = True
                if end - value == 5 and _is(value, b"close", 5):
                    keep_alive = False
                elif end - value == 7 and _is(value, b"upgrade", 7):
                    asked = True
                elif end - value != 10 or not _is(value, b"keep-alive", 10):
                    return None
        elif size >= 14:
            if size == 14 and _is(name, b"content-length", 14):
                if length >= 0:
                    return None
                length = _number(value, end)
                if length < 0:
                    return None
            elif size == 17 and _is(name, b"transfer-encoding", 17):
                return None
            elif _is(name, b"sec-websocket-", 14):
                hinted = True
        key = PyBytes_FromStringAndSize(NULL, size)
        lower = <unsigned char*> PyBytes_AS_STRING(key)
        for i in range(size):
            lower[i] = LOWER[name[i]]
        headers.append((key, PyBytes_FromStringAndSize(<const char*> value, end - value)))
    if p[1] != c"\n" or not hosted or len(headers) > max_headers or p + 2 - start > max_bytes:
        return None
    hinted = hinted or websocket
    asked = asked and websocket and method == "GET"
    size = p + 2 - base
    return size, method, target, path, text, search, headers, None if length < 0 else length, keep_alive, hinted, asked


cpdef tuple pack_fields(list lines):
    cdef Py_ssize_t total = 0, length = -1, size, i
    cdef bint dated = False
    cdef const unsigned char* p
    cdef char* out
    cdef bytes fields
    for line in lines:
        if type(line) is not tuple and type(line) is not list:  # what can't be looked at twice
            return None
        name, value = line
        if type(name) is not bytes or type(value) is not bytes:
            return None
        size = PyBytes_GET_SIZE(name)
        p = <const unsigned char*> PyBytes_AS_STRING(name)
        for i in range(size):
            if not KIND[p[i]] & TOKEN:
                return None
        if size == 4:
            dated = dated or _is(p, b"date", 4)
        elif size == 14:
            if _is(p, b"content-length", 14):
                if length >= 0:
                    return None
                p = <const unsigned char*> PyBytes_AS_STRING(value)
                length = _number(p, p + PyBytes_GET_SIZE(value))
                if length < 0:
                    return None
        elif size == 0 or (size == 10 and _is(p, b"connection", 10)) or (size == 17 and _is(p, b"transfer-encoding", 17)):
            return None
        p = <const unsigned char*> PyBytes_AS_STRING(value)
        for i in range(PyBytes_GET_SIZE(value)):
            if not KIND[p[i]] & TEXT:
                return None
        total += size + PyBytes_GET_SIZE(value) + 4
    fields = PyBytes_FromStringAndSize(NULL, total)
    out = PyBytes_AS_STRING(fields)
    for name, value in lines:
        size = PyBytes_GET_SIZE(name)
        memcpy(out, PyBytes_AS_STRING(name), size)
        out += size
        out[0] = c":"
        out[1] = c" "
        out += 2
        size = PyBytes_GET_SIZE(value)
        memcpy(out, PyBytes_AS_STRING(value), size)
        out += size
        out[0] = c"\r"
        out[1] = c"\n"
        out += 2
    return fields, None if length < 0 else length, dated
