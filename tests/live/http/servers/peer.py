"""A server and a client of Python: `serve PORT FILE`, `fetch URL [METHOD PATH BYTES]...`, `load URL CONNECTIONS EACH`."""

import http.client
import http.server
import os
import socket
import sys
import threading
import time

LINE = b"HTTP/1.1 500 Not a head\r\n\r\n"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Or its two segments would wait for each other.
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def handle_expect_100(self):
        return self.path.startswith("/limited?") or super().handle_expect_100()

    def head(self, status, *headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        # A client that asked for it but is not told sends its next request into a connection that ends.
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def text(self, status, body):
        # In two segments: end_headers() writes, and so does write().
        self.head(status, ("Content-Length", len(body)))
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return len(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        total = 0
        while size := int(self.rfile.readline(), 16):
            total += len(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return total

    def answer(self):
        path = self.path.split("?")[0]
        if path == "/hello" or path == "/parts":
            self.text(200, b"hello\n")
        elif path == "/empty":
            self.text(200, b"")
        elif path == "/none":
            self.head(204)
        elif path == "/cached":
            self.head(304, ("ETag", '"1"'))
        elif path == "/large":
            self.head(200, ("Content-Length", os.path.getsize(FILE)))
            if self.command != "HEAD":
                with open(FILE, "rb") as file:
                    self.connection.sendfile(file)
        elif path == "/lines" and self.request_version == "HTTP/1.0":
            self.close_connection = True
            self.head(200)
            self.wfile.write(20 * LINE)
        elif path == "/lines":
            self.head(200, ("Transfer-Encoding", "chunked"))
            for _ in range(20):
                self.wfile.write(b"%x\r\n" % len(LINE))
                self.wfile.write(LINE)
                self.wfile.write(b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        elif path == "/upload":
            self.text(200, b"%d\n" % self.body())
        elif path == "/limited":
            self.close_connection = True
            self.head(413, ("Content-Length", 0))
        elif path == "/error":
            self.text(500, b"error\n")
        elif path == "/slow":
            time.sleep(0.3)
            self.text(200, b"late\n")
        else:
            self.text(404, b"missing\n")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer


class Server(http.server.ThreadingHTTPServer):
    # By default 5: with more at once a client has connections, and sends requests, that never come to the server.
    request_queue_size = 128


class Server6(Server):
    address_family = socket.AF_INET6


def serve(port):
    six = Server6(("::1", port), Handler)
    threading.Thread(target=six.serve_forever).start()
    Server(("127.0.0.1", port), Handler).serve_forever()


def send(connection, method, path, size):
    """One request. Less than no bytes is a body of unknown length."""
    body = iter([b"x" * 1000] * (-size // 1000)) if size < 0 else b"x" * size or None
    connection.request(method, path, body, encode_chunked=size < 0, headers={"Transfer-Encoding": "chunked"} if size < 0 else {})
    response = connection.getresponse()
    response.read()
    return response.status


def fetch(host, words):
    connection = http.client.HTTPConnection(host)
    for method, path, size in zip(*[iter(words)] * 3):
        print(send(connection, method, path, int(size)))


def load(host, connections, each):
    done = []

    def one():
        connection = http.client.HTTPConnection(host)
        done.extend(send(connection, "GET", "/hello", 0) for _ in range(each))
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(done.count(200))


role, target, *rest = sys.argv[1:]
if role == "serve":
    FILE = rest[0]
    serve(int(target))
elif role == "fetch":
    fetch(target.removeprefix("http://"), rest)
else:
    load(target.removeprefix("http://"), *map(int, rest))
