"""Peers that do wrong, for tests: they take connections, make those that they are told to, tell
the torrent's HTTP trackers of themselves, and then do as their kind does (see swarm-peer).

What they see is told a line each: `hello ADDRESS`, `asked ADDRESS PIECE OFFSET SIZE`, `gone ADDRESS`.
"""

import hashlib
import os
import socket
import struct
import sys
import threading
import time
import urllib.parse
import urllib.request

PEER_ID = b"-XX0001-faulty" + os.urandom(3).hex().encode()
CHOKE, UNCHOKE, INTERESTED, HAVE, BITFIELD, REQUEST, PIECE = 0, 1, 2, 4, 5, 6, 7


def run(options):
    with open(options.torrent, "rb") as file:
        torrent, info = parse(file.read())
    told = {"kind": options.client, "hash": hashlib.sha1(info).digest()}
    told["pieces"] = len(torrent[b"info"][b"pieces"]) // 20
    server = socket.create_server(("0.0.0.0", options.port))
    announce(torrent, told["hash"], options.port)
    for peer in options.peer:
        address, _, port = peer.rpartition(":")
        start(keep_connecting, (address, int(port)), told)
    say("ready")
    while True:
        stream, _ = server.accept()
        start(serve, stream, told)


def start(work, *arguments):
    threading.Thread(target=work, args=arguments, daemon=True).start()


def say(*words):
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def keep_connecting(address, told):
    while True:
        try:
            serve(socket.create_connection(address, 5), told)
        except OSError:
            pass
        time.sleep(2)


def announce(torrent, name, port):
    """Tells the first HTTP tracker, as one that has everything."""
    tiers = torrent.get(b"announce-list", [[torrent.get(b"announce", b"")]])
    for url in (url.decode() for tier in tiers for url in tier):
        if url.startswith("http://"):
            asked = urllib.parse.urlencode({
                "info_hash": name, "peer_id": PEER_ID, "port": port, "uploaded": 0,
                "downloaded": 0, "left": 0, "compact": 1, "event": "started",
            }, quote_via=urllib.parse.quote)
            urllib.request.urlopen(f"{url}?{asked}", timeout=10).read()
            return


def serve(stream, told):
    """One connection to its end."""
    address = stream.getpeername()[0]
    try:
        stream.settimeout(None)
        stream.sendall(b"\x13BitTorrent protocol" + bytes(8) + told["hash"] + PEER_ID)
        hello = exactly(stream, 68)
        say("hello", address)
        if hello[28:48] == told["hash"]:
            converse(stream, address, told)
    except OSError:
        pass
    say("gone", address)
    stream.close()


def converse(stream, address, told):
    if told["kind"] != "silent":
        bits = bytearray((told["pieces"] + 7) // 8)
        for piece in range(told["pieces"]):
            bits[piece // 8] |= 0x80 >> piece % 8
        send(stream, BITFIELD, bytes(bits))
        send(stream, UNCHOKE)
    while True:
        size, = struct.unpack(">I", exactly(stream, 4))
        message = exactly(stream, size)
        if size and message[0] == REQUEST:
            piece, offset, size = struct.unpack(">III", message[1:13])
            say("asked", address, piece, offset, size)
            if told["kind"] == "corrupt":
                send(stream, PIECE, message[1:9] + os.urandom(min(size, 1 << 17)))


def send(stream, kind, payload=b""):
    stream.sendall(struct.pack(">IB", 1 + len(payload), kind) + payload)


def exactly(stream, count):
    parts = bytearray()
    while len(parts) < count:
        part = stream.recv(count - len(parts))
        if not part:
            raise ConnectionError
        parts += part
    return bytes(parts)


def parse(data):
    """A bencoded dictionary, and the bytes of its `info`."""
    span = {}

    def value(at, key=None):
        kind = data[at:at + 1]
        begin = at
        if kind == b"i":
            end = data.index(b"e", at)
            found, at = int(data[at + 1:end]), end + 1
        elif kind in (b"l", b"d"):
            parts, at = [], at + 1
            while data[at:at + 1] != b"e":
                name = parts[-1] if kind == b"d" and len(parts) % 2 else None
                part, at = value(at, name)
                parts.append(part)
            at += 1
            found = parts if kind == b"l" else dict(zip(parts[::2], parts[1::2]))
        else:
            colon = data.index(b":", at)
            at = colon + 1 + int(data[at:colon])
            found = data[colon + 1:at]
        if key is not None:
            span.setdefault(key, data[begin:at])
        return found, at

    torrent, _ = value(0)
    return torrent, span[b"info"]
