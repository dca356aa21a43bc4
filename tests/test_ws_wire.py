"""The WebSocket protocol by hand: refusals, malformed messages, fragments, pings, closes."""
from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import socket
import struct
import time

import numpy as np
import pytest
import websockets

import cases
from daemon import Daemon
from live import Raw, header

FRAME = cases.frames((32, 48), 1, 4)[0]
MESSAGE = header(0, width=48, height=32) + FRAME.tobytes()
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory):
    with Daemon(tiny_model, tmp_path_factory.mktemp("spool") / "s", "--max-image", LIMIT, "--ws-timeout", "6",
                "--cors-origins", "https://allowed.example") as d:
        yield d


def upgrade(daemon, target, **headers):
    """(status, answer's headers, body) of an upgrade's request."""
    c = http.client.HTTPConnection("127.0.0.1", daemon.ws_port, timeout=60)
    c.request("GET", target, headers={"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                                      "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
                                      "Sec-WebSocket-Protocol": "tv3s.v1", **headers})
    r = c.getresponse()
    body = r.read() if r.status != 101 else b""
    c.close()
    return r.status, r.headers, body


# ---- the upgrade ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target, status", [
    ("/v1/streams/a/ws", 101),
    ("/v1/streams/a", 404),
    ("/", 404),
    ("/v1/streams//ws", 404),
    ("/v1/streams/a%2Fb/ws", 400),
    ("/v1/streams/" + 128 * "x" + "/ws", 101),
    ("/v1/streams/" + 129 * "x" + "/ws", 400),
    ("/v1/streams/" + 131 * "x" + "/ws", 404),
    ("/v1/streams/" + 2000 * "x" + "/ws", 404),
    ("/v1/streams/a/ws?model=nobody", 404),
    ("/v1/streams/a/ws?mode=fast", 400),
    ("/v1/streams/a/ws?format=gif", 400),
    ("/v1/streams/a/ws?credit=0", 400),
    ("/v1/streams/a/ws?credit=65", 400),
    ("/v1/streams/a/ws?credit=4x", 400),
    ("/v1/streams/a/ws?drop=all", 400),
    ("/v1/streams/a/ws?takeover=yes", 400),
    ("/v1/streams/a/ws?colour=red", 400),
    ("/v1/streams/a/ws?credit=4&credit=4", 400),
    ("/v1/streams/a/ws?mode=" + 300 * "x", 400),
], ids=range(20))
def test_an_upgrade_is_checked_first(daemon, target, status):
    got, headers, body = upgrade(daemon, target)
    assert got == status, body
    if status != 101:
        assert headers["Content-Type"] == "application/problem+json" and json.loads(body)["status"] == status


def test_a_stream_keeps_its_model_and_mode(daemon):
    assert upgrade(daemon, "/v1/streams/kept/ws?mode=clip")[0] == 101
    time.sleep(0.2)
    assert upgrade(daemon, "/v1/streams/kept/ws?mode=stream&takeover=1")[0] == 409
    assert upgrade(daemon, "/v1/streams/kept/ws?takeover=1")[0] == 101


@pytest.mark.parametrize("origin, status", [
    ("http://127.0.0.1:8080", 101), ("https://allowed.example", 101), ("https://evil.example", 403), ("null", 403)])
def test_pages_of_other_sites_may_not_connect(daemon, origin, status):
    assert upgrade(daemon, "/v1/streams/origin/ws?takeover=1", Origin=origin)[0] == status


def test_what_is_no_upgrade_is_told_so(daemon):
    c = http.client.HTTPConnection("127.0.0.1", daemon.ws_port, timeout=60)
    c.request("GET", "/v1/streams/a/ws")
    r = c.getresponse()
    assert r.status == 426 and r.headers["Upgrade"] == "websocket" and json.loads(r.read())["status"] == 426


def test_an_unknown_subprotocol_is_refused_and_none_is_fine(daemon):
    assert upgrade(daemon, "/v1/streams/sub/ws", **{"Sec-WebSocket-Protocol": "chat"})[0] == 400
    assert upgrade(daemon, "/v1/streams/sub/ws", **{"Sec-WebSocket-Protocol": "chat, tv3s.v1"})[0] == 101

    async def run():
        async with Raw(daemon, "sub?takeover=1", subprotocols=None) as c:
            await c.send(MESSAGE)
            assert await c.answer() == 0
    asyncio.run(run())


# ---- messages ---------------------------------------------------------------------------------------------
def close_code(daemon, *messages, name="bad") -> int:
    async def run():
        async with Raw(daemon, name + "?takeover=1") as c:
            try:
                for m in messages:
                    await c.send(m)
            except websockets.ConnectionClosed:
                pass
            return await c.closed()
    return asyncio.run(run())


@pytest.mark.parametrize("message", [
    b"", b"GIF89a", MESSAGE[:31], MESSAGE[:-1], MESSAGE + b"x", b"X" + MESSAGE[1:],
    header(0, version=2, width=48, height=32) + FRAME.tobytes(),
    header(0, kind=9), header(0, kind=4, codec=9) + b"x", header(0, kind=1, codec=1) + b"x",
    header(0, flags=8, width=48, height=32) + FRAME.tobytes(), header(-5, width=48, height=32) + FRAME.tobytes(),
    header(0, width=2 ** 31, height=2 ** 31), header(0, kind=1), header(0, kind=4, codec=1),
    "", "hello", "[]", "{}", '{"type":"nothing"}', '{"type":"format"}', '{"type":"format","format":"gif"}',
    '{"type":"reset","x":1}', "\0", '{"type":"end"',
], ids=range(25))
def test_malformed_messages_close_with_1002(daemon, message):
    assert close_code(daemon, message) == 1002


def test_numbers_that_do_not_ascend_close_with_1002(daemon):
    assert close_code(daemon, MESSAGE, MESSAGE, name="order") == 1002


def test_a_frame_after_the_end_closes_with_1002(daemon):
    """Unless the server has said bye already."""
    assert close_code(daemon, MESSAGE, '{"type":"end"}', header(9, width=48, height=32) + FRAME.tobytes(),
                      name="after") in (1002, 1000)


def test_messages_beyond_the_limit_close_with_1009(daemon):
    assert close_code(daemon, bytes(LIMIT + 1)) == 1009
    assert close_code(daemon, '"' + "x" * (1 << 17)) == 1009
    assert close_code(daemon, bytes(LIMIT)) == 1002


def test_the_others_do_not_notice(daemon):
    async def run():
        async with Raw(daemon, "bystander") as c:
            for i, bad in enumerate([b"junk", "junk", bytes(LIMIT + 1)]):
                await asyncio.to_thread(close_code, daemon, bad)
                await c.send(header(i, width=48, height=32) + FRAME.tobytes())
                assert await c.answer() == i
    asyncio.run(run())


# ---- fragments, pings ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 7, 1000, 4608])
def test_fragments_are_put_together(daemon, size):
    message = MESSAGE if size > 1 else header(0, width=32, height=32) + bytes(3072)

    async def run():
        async with Raw(daemon, f"fragments-{size}") as c:
            async def pieces():
                for at in range(0, len(message), size):
                    if at % (50 * size) == 0:
                        await c.socket.ping()  # in the middle of a message
                    yield message[at:at + size]
                yield b""
            await c.send(pieces())
            assert await c.answer() == 0
            await c.send(['{"type":', '"sta', "", 'ts"}'])
            assert (await c.json())["type"] == "stats"
    asyncio.run(run())


def test_pings_are_answered_with_their_content(daemon):
    async def run():
        async with Raw(daemon, "ping") as c:
            for data in (b"", b"x", os.urandom(125)):
                await asyncio.wait_for(await c.socket.ping(data), 60)
            await c.socket.pong(b"unasked")
            await c.send('{"type":"stats"}')
            assert (await c.json())["type"] == "stats"
    asyncio.run(run())


# ---- bytes ------------------------------------------------------------------------------------------------
class Wire:
    """A socket after its upgrade; frames by hand."""

    def __init__(self, daemon, name, query=""):
        self.s = socket.create_connection(("127.0.0.1", daemon.ws_port), timeout=60)
        self.s.sendall(f"GET /v1/streams/{name}/ws?takeover=1{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "
                       "websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                       .encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.s.recv(1)
        assert data.startswith(b"HTTP/1.1 101")
        assert self.frame()[0] == 1  # the hello

    def exactly(self, n) -> bytes:
        data = b""
        while len(data) < n:
            more = self.s.recv(n - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def frame(self):
        """(opcode, payload) of the next frame."""
        first, second = self.exactly(2)
        n = second & 127
        if n > 125:
            n = int.from_bytes(self.exactly(2 if n == 126 else 8), "big")
        return first & 15, self.exactly(n)

    def send(self, first, payload=b"", mask=b"\x12\x34\x56\x78", length=None):
        n = len(payload) if length is None else length
        head = bytes([first, (128 if mask else 0) | n]) if n < 126 else \
            bytes([first, (128 if mask else 0) | 126]) + struct.pack(">H", n)
        body = bytes(b ^ mask[i % 4] for i, b in enumerate(payload)) if mask else payload
        self.s.sendall(head + mask + body)

    def ended(self):
        """The close code; None: without a close frame."""
        try:
            while True:
                opcode, payload = self.frame()
                if opcode == 8:
                    return struct.unpack(">H", payload[:2])[0] if payload else 1005
        except (EOFError, OSError):
            return None


@pytest.mark.parametrize("what, first, payload, codes", [
    ("close", 0x88, struct.pack(">H", 1000), (1000,)),
    ("close without a code", 0x88, b"", (1000, 1005, None)),
    ("text that is not UTF-8", 0x81, b'"\xff\xfe"', (1007, None)),
    ("an unknown opcode", 0x83, b"", (1002, None)),
    ("reserved bits", 0xC1, b"{}", (1002, None)),
    ("a fragmented ping", 0x09, b"", (1002, None)),
    ("a continuation of nothing", 0x80, b"x", (1002, None)),
], ids=range(7))
def test_frames_against_the_protocol_end_the_connection(daemon, what, first, payload, codes):
    w = Wire(daemon, "against")
    w.send(first, payload)
    assert w.ended() in codes, what
    assert daemon.process.poll() is None


def test_a_disconnect_at_each_step_leaves_nothing(daemon):
    request = (b"GET /v1/streams/steps/ws?takeover=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket"
               b"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    mask = b"\0\0\0\0"
    message = bytes([0x82, 0xFE]) + struct.pack(">H", len(MESSAGE)) + mask + MESSAGE
    whole = request + message
    rng = np.random.default_rng(3)
    cuts = [1, len(request) - 1, len(request), len(request) + 1, len(request) + 6, len(request) + 40, len(whole) - 1,
            len(whole), *rng.integers(1, len(whole), 12)]
    for cut in cuts:
        s = socket.create_connection(("127.0.0.1", daemon.ws_port), timeout=60)
        s.sendall(whole[:cut])
        if cut % 2:  # a reset instead of an end
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    end = time.monotonic() + 60
    while daemon.metric('tv3sd_connections{protocol="ws"}') and time.monotonic() < end:
        time.sleep(0.05)
    assert daemon.metric('tv3sd_connections{protocol="ws"}') == 0
    assert close_code(daemon, b"junk") == 1002  # it still serves


def test_a_client_that_answers_no_ping_is_closed(daemon):
    w = Wire(daemon, "silent")
    w.s.settimeout(60)
    began = time.monotonic()
    opcodes = []
    try:
        while True:
            opcodes.append(w.frame()[0])
    except (EOFError, OSError):
        pass
    assert 9 in opcodes and 4 < time.monotonic() - began < 40


def test_a_reader_that_does_not_read_holds_back_itself_alone(daemon):
    w = Wire(daemon, "slow", "&drop=newest")
    w.s.settimeout(0.5)
    big = cases.frames((256, 256), 1, 1)[0].tobytes()
    sent = 0
    try:
        for i in range(200):
            message = header(i, width=256, height=256) + big
            w.s.sendall(bytes([0x82, 0xFF]) + struct.pack(">Q", len(message)) + b"\0\0\0\0" + message)
            sent += 1
    except OSError:
        pass

    async def run():
        async with Raw(daemon, "beside-slow") as c:
            for i in range(3):
                await c.send(header(i, width=48, height=32) + FRAME.tobytes())
                assert await c.answer() == i
    asyncio.run(run())
    w.s.close()
