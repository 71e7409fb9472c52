"""One hop of a chain of plain TCP: the seeder sends the file once, every node passes it on to the
next while it comes in and keeps it. Nothing is hashed. The payload is copied by the kernel only.

The first peer given is where the content goes on to; the last node of a chain has none.
"""

import os
import socket
import time

CHUNK = 1 << 18


def run(options):
    content = options.dir / "content"
    onward = [connected(peer) for peer in options.peer[:1]]
    if options.role == "seed":
        with open(content, "rb") as source:
            size = os.fstat(source.fileno()).st_size
            for stream in onward:
                send(stream, source, 0, size)
        ended(onward)
        return
    with socket.create_server(("0.0.0.0", options.port)) as server:
        server.settimeout(60)
        stream, _ = server.accept()
    with open(content, "w+b") as kept:
        at = 0
        into, out = os.pipe()[::-1]
        while taken := os.splice(stream.fileno(), into, CHUNK):
            left = taken
            while left:
                left -= os.splice(out, kept.fileno(), left)
            for node in onward:
                send(node, kept, at, taken)
            at += taken
    ended(onward)


def send(stream, file, offset, count):
    while count:
        sent = os.sendfile(stream.fileno(), file.fileno(), offset, count)
        offset += sent
        count -= sent


def ended(onward):
    for stream in onward:
        stream.shutdown(socket.SHUT_WR)


def connected(peer):
    """The next node may not listen yet."""
    address, _, port = peer.rpartition(":")
    deadline = time.monotonic() + 60
    while True:
        try:
            stream = socket.create_connection((address, int(port)), 5)
            stream.settimeout(None)
            return stream
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
