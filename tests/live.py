"""Shared by the WebSocket tests: the Python client, raw connections, and what masks are to be."""
from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys

import numpy as np
import websockets

from conftest import HERE, TV3S

sys.path[:0] = [os.path.join(HERE, "../clients/python")]
from tv3s_client import AsyncClient, Client, Frame  # noqa: E402

__all__ = ["AsyncClient", "Client", "Frame"]


def client(daemon) -> Client:
    return Client(f"http://127.0.0.1:{daemon.http_port}", timeout=120)


def async_client(daemon) -> AsyncClient:
    return AsyncClient(f"http://127.0.0.1:{daemon.http_port}", timeout=120)


def cut(stream) -> None:
    """The connection is gone, without a word."""
    stream._socket._connection.transport.abort()


def tool_masks(model: str, frames: np.ndarray, folder, mode="stream") -> np.ndarray:
    """The masks (frames, height, width) as `tv3s logits` has them."""
    n, h, w = frames.shape[:3]
    rgb, out = folder / "frames.rgb", folder / f"{mode}.npy"
    rgb.write_bytes(frames.tobytes())
    subprocess.run([TV3S, "logits", model, "--rgb", rgb, "--size", f"{w}x{h}", "--mode", mode, "--masks", out,
                    "--logits", folder / "logits.npy"], check=True, capture_output=True)
    return np.load(out)


def rgb(frame: np.ndarray, **more) -> Frame:
    h, w = frame.shape[:2]
    return Frame.rgb24(frame.tobytes(), w, h, **more)


def labels(answer) -> np.ndarray:
    """The mask of an answer in the format raw."""
    assert answer.format == "raw" and len(answer.data) == answer.width * answer.height
    return np.frombuffer(answer.data, np.uint8).reshape(answer.height, answer.width)


def header(seq: int, kind=2, codec=0, flags=0, pts=-2 ** 63, width=0, height=0, magic=b"TV3F", version=1) -> bytes:
    return magic + struct.pack("<BBBBqqII", version, kind, codec, flags, seq, pts, width, height)


class Raw:
    """A connection by hand: `async with Raw(daemon, "id?credit=2") as c`. The hello is read already."""

    def __init__(self, daemon, target: str, **options):
        name, _, query = target.partition("?")
        self.url = f"ws://127.0.0.1:{daemon.ws_port}/v1/streams/{name}/ws" + (f"?{query}" if query else "")
        self.options = {"subprotocols": ["tv3s.v1"], "compression": None, "max_size": None, "open_timeout": 60,
                        **options}

    async def __aenter__(self) -> "Raw":
        self.socket = await websockets.connect(self.url, **self.options)
        self.hello = await self.json()
        assert self.hello["type"] == "hello"
        return self

    async def __aexit__(self, *_) -> None:
        await self.socket.close()

    async def recv(self):
        return await asyncio.wait_for(self.socket.recv(), 120)

    async def json(self) -> dict:
        message = await self.recv()
        assert isinstance(message, str), message[:48]
        return json.loads(message)

    async def answer(self) -> int:
        """The number of the next answer."""
        message = await self.recv()
        assert isinstance(message, bytes), message
        assert message[:4] == b"TV3M"
        return struct.unpack_from("<q", message, 8)[0]

    async def send(self, message) -> None:
        await self.socket.send(message)

    async def closed(self) -> int:
        """Reads to the end; the close code."""
        try:
            while True:
                await self.recv()
        except websockets.ConnectionClosed:
            return self.socket.close_code
