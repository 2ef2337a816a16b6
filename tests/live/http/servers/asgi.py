"""The exchanges for uvicorn: `PORT FILE`."""

import asyncio
import os
import socket
import sys

import uvicorn

PORT, FILE = int(sys.argv[1]), sys.argv[2]
LINE = b"HTTP/1.1 500 Not a head\r\n\r\n"


async def app(scope, receive, send):
    async def head(status, length=None, more=()):
        headers = [*more] if length is None else [(b"content-length", b"%d" % length)]
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(piece=b"", more=False):
        await send({"type": "http.response.body", "body": piece, "more_body": more})

    async def text(status, piece):
        await head(status, len(piece))
        await body(piece)

    path = scope["path"]
    if path == "/hello" or path == "/parts":
        await text(200, b"hello\n")
    elif path == "/empty":
        await text(200, b"")
    elif path == "/none":
        await head(204)
        await body()
    elif path == "/cached":
        await head(304, more=[(b"etag", b'"1"')])
        await body()
    elif path == "/large":
        await head(200, os.path.getsize(FILE))
        with open(FILE, "rb") as file:
            while piece := file.read(65536):
                await body(piece, more=True)
        await body()
    elif path == "/lines":
        await head(200)
        for _ in range(20):
            await body(LINE, more=True)
            await asyncio.sleep(0.001)
        await body()
    elif path == "/upload":
        total, more = 0, True
        while more:
            event = await receive()
            total, more = total + len(event.get("body", b"")), event.get("more_body", False)
        await text(200, b"%d\n" % total)
    elif path == "/limited":
        await text(413, b"")
    elif path == "/error":
        await text(500, b"error\n")
    elif path == "/slow":
        await asyncio.sleep(0.3)
        await text(200, b"late\n")
    else:
        await text(404, b"missing\n")


def listen(family, host):
    own = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.bind((host, PORT))
    return own


server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
server.run(sockets=[listen(socket.AF_INET, "127.0.0.1"), listen(socket.AF_INET6, "::1")])
