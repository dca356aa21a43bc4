"""One WebSocket connection: the only file that needs the package websockets, imported by who opens a stream."""
from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from typing import Any, Dict, Optional, Union
from urllib.parse import urlsplit

try:
    import websockets
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatusCode
except ImportError as e:
    raise ImportError("streams need the package websockets (Debian: python3-websockets, for /usr/bin/python3); "
                      "uploads do without") from e

from .errors import ConnectionLost, ProtocolError, Tv3sError
from .http import connection_to, naming
from .message import authorization


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
    tls = {"ssl": trusted} if trusted and url.startswith("wss:") else {}
    try:
        with naming(url):
            return Socket(await websockets.connect(  # type: ignore[attr-defined]
                url, subprotocols=["tv3s.v1"], compression="deflate" if deflate else None, max_size=None,
                open_timeout=timeout, extra_headers=authorization(key), **tls))
    except InvalidStatusCode as e:
        raise Tv3sError(await asyncio.to_thread(_problem, url, e.status_code, timeout, key, trusted)) from None
    except InvalidHandshake as e:
        raise ProtocolError(str(e)) from e


def _lost(e: ConnectionClosed) -> ConnectionLost:
    frame = e.rcvd
    return ConnectionLost(frame.code if frame else None, frame.reason if frame else "", None)


def _problem(url: str, status: int, timeout: float, key: Optional[str],
             trusted: Optional[ssl.SSLContext]) -> Dict[str, Any]:
    """The problem object of a refused upgrade, which websockets does not keep: asks again, by hand."""
    parts = urlsplit(url)
    problem: Any = None
    try:
        connection = connection_to(parts.scheme == "wss", parts.hostname or "", parts.port, timeout, trusted)
        connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path, headers={
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": "tv3s.v1", **authorization(key)})
        answer = connection.getresponse()
        if answer.status == status:
            problem = json.loads(answer.read())
        connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        pass
    title = http.client.responses.get(status, "refused")
    return problem if isinstance(problem, dict) else {"type": "about:blank", "title": title, "status": status}
