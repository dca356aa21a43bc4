"""A client that behaves badly, without end: `chaos_client.py SEED HTTP_PORT WS_PORT FOLDER`. Made to be killed at any moment.

FOLDER has images/, clips/ and packets/ (H.264, in order). Standard library alone: it starts often."""
from __future__ import annotations

import json
import os
import random
import select
import socket
import struct
import sys
import time

STREAMS = [f"chaos-{i}" for i in range(10)]  # few, so that connections meet
FORMATS = ["png", "raw", "rle", "coco_rle", "overlay", "labels"]
CONTROL = [b'{"type":"reset"}', b'{"type":"stats"}', b'{"type":"format","format":"rle"}', b'{"type":"end"}',
           b'{"type":"nothing"}', b"{", b'{"type":"reset","x":1}', b"\xff\xfe"]


class Cut(Exception):
    """The request ends here, in the middle."""


def files(folder: str) -> list[bytes]:
    out = []
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as f:
            out.append(f.read())
    return out


class Client:
    def __init__(self, seed: int, http_port: int, ws_port: int, folder: str):
        self.random = random.Random(seed)
        self.http_port, self.ws_port = http_port, ws_port
        self.images, self.clips, self.packets = (files(os.path.join(folder, n)) for n in ("images", "clips", "packets"))
        self.kept: list[socket.socket] = []  # neither closed nor used any more

    # ---- sockets
    def connect(self, port: int) -> socket.socket:
        s = socket.socket()
        s.settimeout(0.4)
        if self.random.random() < 0.2:  # a slow reader
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.connect(("127.0.0.1", port))
        return s

    def leave(self, s: socket.socket) -> None:
        how = self.random.choice(("close", "close", "reset", "half", "keep"))
        if how == "reset":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how in ("half", "keep"):
            if how == "half":
                s.shutdown(socket.SHUT_WR)
            self.kept.append(s)
            s = self.kept.pop(0) if len(self.kept) > 5 else None
        if s:
            s.close()

    def pause(self) -> None:
        if self.random.random() < 0.3:
            time.sleep(self.random.random() * 0.01)

    def send(self, s: socket.socket, data: bytes, cut=0.15) -> None:
        """In pieces; or not to the end."""
        whole = self.random.random() >= cut
        end = len(data) if whole else self.random.randrange(len(data) + 1)
        at = 0
        while at < end:
            n = self.random.choice((end, end, 1, 40, 3000, 70000))
            s.sendall(data[at:min(at + n, end)])
            at += n
            self.pause()
        if not whole:
            raise Cut

    def read(self, s: socket.socket, most=1 << 30) -> bytes:
        """To the end, or about as far as `most`."""
        out = b""
        while len(out) < most and (piece := s.recv(65536)):
            out += piece
        return out

    # ---- HTTP
    def ask(self, method: str, path: str, body: bytes | None = None, headers="", most=1 << 30) -> bytes:
        """The answer's body, if all goes well."""
        s = self.connect(self.http_port)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}"
            if self.random.random() < 0.8:
                head += "Connection: close\r\n"
            if body is not None and self.random.random() < 0.3:
                data = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
                head += "Transfer-Encoding: chunked\r\n"
            else:
                data = body or b""
                head += f"Content-Length: {len(data)}\r\n" if body is not None else ""
            self.send(s, head.encode() + b"\r\n" + data)
            answer = self.read(s, most if self.random.random() < 0.8 else self.random.randrange(1, 20000))
            return answer.partition(b"\r\n\r\n")[2]
        finally:
            self.leave(s)

    def image(self) -> bytes:
        data = self.random.choice(self.images)
        return data if self.random.random() < 0.8 else data[:self.random.randrange(len(data))]

    def segment(self) -> None:
        self.ask("POST", f"/v1/segment?format={self.random.choice(FORMATS)}", self.image(), "Accept-Encoding: gzip\r\n")

    def upload(self) -> None:
        clip = self.random.choice(self.clips)
        if self.random.random() < 0.2:
            clip = clip[:self.random.randrange(len(clip))]
        answer = self.ask("POST", f"/v1/videos?format={self.random.choice(FORMATS)}", clip)
        if answer and self.random.random() < 0.5:
            self.follow(json.loads(answer).get("id", "none"))

    def follow(self, job: str) -> None:
        for _ in range(self.random.randrange(1, 6)):
            self.random.choice((self.events, self.result, self.one_mask, self.look))(job)
            self.pause()
        if self.random.random() < 0.6:
            self.ask("DELETE", f"/v1/videos/{job}")

    def look(self, job: str) -> None:
        self.ask("GET", f"/v1/videos/{job}")

    def events(self, job: str) -> None:
        self.ask("GET", f"/v1/videos/{job}/events", most=self.random.randrange(1, 5000))

    def result(self, job: str) -> None:
        first = self.random.randrange(20000)
        headers = self.random.choice(("", "Accept-Encoding: gzip\r\n", f"Range: bytes={first}-\r\n",
                                      f"Range: bytes={first}-{first + 999}\r\n"))
        self.ask("GET", f"/v1/videos/{job}/masks", None, headers, self.random.choice((1, 3000, 1 << 30)))

    def one_mask(self, job: str) -> None:
        self.ask("GET", f"/v1/videos/{job}/masks/{self.random.randrange(12)}")

    def anyones_video(self) -> None:
        videos = json.loads(self.ask("GET", "/v1/videos") or b"{}").get("videos")
        if videos:
            self.follow(self.random.choice(videos)["id"])

    def stream_by_http(self) -> None:
        name = self.random.choice(STREAMS)
        self.ask("PUT", f"/v1/streams/{name}")
        for _ in range(self.random.randrange(4)):
            self.ask("POST", f"/v1/streams/{name}/frames", self.image())
        what = self.random.randrange(4)
        if what == 0:
            self.ask("POST", f"/v1/streams/{name}/reset", b"")
        elif what == 1:
            state = self.ask("GET", f"/v1/streams/{name}/state")
            self.ask("PUT", f"/v1/streams/{self.random.choice(STREAMS)}/state", state[:self.random.choice((None, -8))])
        elif what == 2:
            self.ask("DELETE", f"/v1/streams/{name}")

    def nonsense(self) -> None:
        port = self.random.choice((self.http_port, self.ws_port))
        s = self.connect(port)
        try:
            self.send(s, self.random.choice((b"GET ", b"\0" * 300, b"GET /v1/streams HTTP/1.1\r\n\r\n" * 20,
                                             b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10, self.random.randbytes(2000),
                                             b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")))
            self.read(s, 1000)
        finally:
            self.leave(s)

    # ---- WebSocket
    def frame(self, opcode: int, payload: bytes) -> bytes:
        """One message, masked with zeroes, in one fragment or more."""
        out, at, first = b"", 0, True
        pieces = 1 if opcode >= 8 or self.random.random() < 0.8 else self.random.randrange(2, 5)
        step = max(1, -(-len(payload) // pieces))
        while first or at < len(payload):
            piece = payload[at:at + step]
            at += step
            n = len(piece)
            head = bytes([(opcode if first else 0) | (128 if at >= len(payload) else 0)])
            head += bytes([128 | n]) if n < 126 else \
                bytes([254]) + struct.pack(">H", n) if n < 65536 else bytes([255]) + struct.pack(">Q", n)
            out += head + b"\0\0\0\0" + piece
            first = False
        return out

    def message(self) -> bytes:
        what = self.random.randrange(20)
        if what < 8:
            return self.frame(2, self.image())
        if what < 12:
            kind, size = self.random.choice(((2, 3 * 48 * 32), (3, 48 * 32 * 3 // 2), (2, 5)))
            head = b"TV3F" + struct.pack("<BBBBqqII", 1, kind, 0, self.random.choice((0, 0, 2)), self.next, 0, 48, 32)
            self.next += 1
            return self.frame(2, head + bytes(size))
        if what < 19:
            return self.frame(1, self.random.choice(CONTROL[:3] if self.random.random() < 0.8 else CONTROL))
        return self.random.choice((self.frame(9, b"ping"), self.frame(10, b""), self.frame(8, b"\x03\xe8"),
                                   self.frame(2, b"junk"), b"\xff\xff"))

    def packet(self, i: int) -> bytes:
        head = b"TV3F" + struct.pack("<BBBBqqII", 1, 4, 1, 0, self.next, 0, 0, 0)
        self.next += 1
        return self.frame(2, head + self.packets[i])

    def stream(self) -> None:
        r, s = self.random, self.connect(self.ws_port)
        self.next = r.choice((0, 0, 100000))
        query = f"takeover={r.choice((0, 1, 1))}&format={r.choice(FORMATS)}&drop={r.choice(('none', 'oldest', 'newest'))}"
        try:
            self.send(s, f"GET /v1/streams/{r.choice(STREAMS)}/ws?{query}&credit={r.choice((1, 4, 64))} HTTP/1.1\r\nHost: localhost\r\n"
                         "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode(), 0.05)
            if not self.read(s, 12).startswith(b"HTTP/1.1 101"):
                return
            packets, reads = r.random() < 0.4, r.random()
            for i in range(r.randrange(1, 40)):
                self.send(s, self.packet(i % len(self.packets)) if packets and r.random() < 0.9 else self.message(), 0.02)
                if r.random() < reads and select.select([s], [], [], 0.03)[0]:
                    s.recv(1 << 18)
        finally:
            self.leave(s)

    # ---- all of it
    def run(self) -> None:
        actions = [self.segment, self.upload, self.upload, self.anyones_video, self.stream_by_http, self.stream_by_http,
                   self.nonsense, self.stream, self.stream, self.stream, self.stream]
        while True:
            try:
                self.random.choice(actions)()
            except (Cut, OSError, ValueError):
                pass
            self.pause()


if __name__ == "__main__":
    Client(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]).run()
