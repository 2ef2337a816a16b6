"""The exchanges for gunicorn, which sends a file by sendfile and frames what has no length in chunks."""

import os
import time
from wsgiref.util import FileWrapper

FILE = os.environ["LARGE"]
LINE = b"HTTP/1.1 500 Not a head\r\n\r\n"


def app(environ, start):
    def text(status, body):
        start(status, [("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    path = environ["PATH_INFO"]
    if path == "/none":
        start("204 No Content", [])
        return []
    if path == "/cached":
        start("304 Not Modified", [("ETag", '"1"')])
        return []
    if path == "/large":
        start("200 OK", [("Content-Length", str(os.path.getsize(FILE)))])
        if environ["REQUEST_METHOD"] == "HEAD":
            return []
        return environ.get("wsgi.file_wrapper", FileWrapper)(open(FILE, "rb"))
    if path == "/lines":
        start("200 OK", [])
        return (LINE for _ in range(20))
    if path == "/upload" or path == "/limited":
        body = b"%d\n" % len(environ["wsgi.input"].read())
        return text("200 OK" if path == "/upload" else "413 Too Large", body)
    if path == "/slow":
        time.sleep(0.3)
    known = {"/hello": b"hello\n", "/parts": b"hello\n", "/empty": b"", "/slow": b"late\n"}
    if path in known:
        return text("200 OK", known[path])
    return text("500 Error", b"error\n") if path == "/error" else text("404 Not Found", b"missing\n")
