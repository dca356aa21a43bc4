"""One WebSocket connection: the only file that needs the package websockets, imported by who opens a stream.

websockets has two implementations for asyncio. The old one is there from 10 on, and goes in time; the new one lets itself
be kept from the environment's proxies, as our half of HTTP is, from 15 on. The newer that serves is taken."""
from __future__ import annotations

import asyncio
import http.client
import ssl
from importlib import import_module
from typing import Any, Dict, Optional, Union
from urllib.parse import urlsplit

try:
    from websockets.exceptions import ConnectionClosed, InvalidHandshake
    from websockets.version import version
except ImportError as e:
    raise ImportError("streams need the package websockets (pip install websockets; Debian: python3-websockets, for "
                      "/usr/bin/python3); uploads do without") from e

from .errors import ConnectionLost, ProtocolError, Tv3sError, naming
from .http import connection_to, problem_of
from .message import authorization

NEW = int(version.split(".")[0]) >= 15


class Socket:
    """Made by `connect`. `recv` and `send` raise ConnectionLost once it is closed, by whomever."""

    def __init__(self, connection: Any):
        self._connection = connection

    async def recv(self) -> Union[str, bytes]:
        try:
            message: Union[str, bytes] = await self._connection.recv()
            return message
        except ConnectionClosed as e:
            raise _lost(e) from None

    async def send(self, message: Union[str, bytes]) -> None:
        try:
            await self._connection.send(message)
        except ConnectionClosed as e:
            raise _lost(e) from None

    async def close(self) -> None:
        await self._connection.close()


async def connect(url: str, deflate: bool, timeout: float, key: Optional[str] = None,
                  trusted: Optional[ssl.SSLContext] = None) -> Socket:
    """Tv3sError when the server refuses."""
    options: Dict[str, Any] = {"subprotocols": ["tv3s.v1"], "compression": "deflate" if deflate else None,
                               "max_size": None, "open_timeout": timeout}
    if trusted and url.startswith("wss:"):
        options["ssl"] = trusted
    if NEW:
        options.update(additional_headers=authorization(key), proxy=None)
    else:
        options.update(extra_headers=authorization(key))
    implementation: Any = import_module("websockets.asyncio.client" if NEW else "websockets.legacy.client")
    try:
        with naming(url):
            return Socket(await implementation.connect(url, **options))
    except InvalidHandshake as e:
        if NEW and hasattr(e, "response"):
            answer = e.response
            raise Tv3sError(problem_of(answer.status_code, answer.reason_phrase, answer.body)) from None
        if hasattr(e, "status_code"):
            raise Tv3sError(await asyncio.to_thread(_problem, url, e.status_code, timeout, key, trusted)) from None
        raise ProtocolError(str(e)) from e


def _lost(e: ConnectionClosed) -> ConnectionLost:
    frame = e.rcvd
    return ConnectionLost(frame.code if frame else None, frame.reason if frame else "", None)


def _problem(url: str, status: int, timeout: float, key: Optional[str],
             trusted: Optional[ssl.SSLContext]) -> Dict[str, Any]:
    """The problem object of a refused upgrade, which the old implementation does not keep: asks again, by hand."""
    parts = urlsplit(url)
    body = b""
    try:
        connection = connection_to(parts.scheme == "wss", parts.hostname or "", parts.port, timeout, trusted)
        connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path, headers={
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": "tv3s.v1", **authorization(key)})
        answer = connection.getresponse()
        if answer.status == status:
            body = answer.read()
        connection.close()
    except (OSError, http.client.HTTPException):
        pass
    return problem_of(status, http.client.responses.get(status, "refused"), body)
