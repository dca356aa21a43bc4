"""A TCP forwarder whose connections can be cut, or held, at a byte."""
from __future__ import annotations

import socket
import threading
from collections.abc import Callable


class Proxy:
    """`with Proxy() as p`: forwards p.port to p.target on 127.0.0.1. `requests_alone`: of that many connections to come
    the request passes, and what the client sends after it breaks the connection."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.target, self.pairs, self.lock = self.listener.getsockname()[1], None, [], threading.Lock()
        self.requests_alone = 0
        self.planned: list[tuple[int, Callable[[], object]]] = []

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()

    def cut(self) -> None:
        """Every connection breaks, on both sides."""
        with self.lock:
            for one in self.pairs:
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it is broken already
            self.pairs.clear()

    def after(self, count: int, do: Callable[[], object]) -> None:
        """Of the next connection that has no such plan: when so many bytes of its client's were forwarded, and before
        the next one is."""
        self.planned.append((count, do))

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            with self.lock:
                self.pairs += [near, far]
            alone, self.requests_alone = self.requests_alone > 0, max(0, self.requests_alone - 1)
            plan = self.planned.pop(0) if self.planned and not alone else ()
            for up, *args in ((self._request if alone else self._pump, near, far, *plan), (self._pump, far, near)):
                threading.Thread(target=up, args=args, daemon=True).start()

    def _request(self, near: socket.socket, far: socket.socket) -> None:
        try:
            head = b""
            while not head.endswith(b"\r\n\r\n") and (byte := near.recv(1)):
                head += byte
            far.sendall(head)
            near.recv(1)
        except OSError:
            pass  # cut
        self.cut()

    @staticmethod
    def _pump(a: socket.socket, b: socket.socket, count=0, do=None) -> None:
        try:
            while data := a.recv(min(65536, count or 65536)):
                b.sendall(data)
                count -= len(data) if count else 0
                if do and not count:
                    do()
                    do = None
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # cut
