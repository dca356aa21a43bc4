"""The WebSocket protocol by hand: refusals, malformed messages, fragments, pings, closes."""
from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import socket
import struct
import time

import numpy as np
import pytest
import websockets
from PIL import Image

import cases
from daemon import PATIENCE, Daemon
from live import Raw, header

FRAME = cases.frames((32, 48), 1, 4)[0]
MESSAGE = header(0, width=48, height=32) + FRAME.tobytes()
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory):
    with Daemon(tiny_model, tmp_path_factory.mktemp("spool") / "s", "--max-image", LIMIT, "--ws-timeout", "600",
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
    ("/v1/streams/a%2fb/ws", 400),
    ("/v1/streams/a/b/ws", 400),
    ("/v1/streams/%2e%2e%2fa/ws", 404),
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
    ("/v1/streams/empty/ws?", 101),
], ids=range(24))
def test_an_upgrade_is_checked_first(daemon, target, status):
    got, headers, body = upgrade(daemon, target)
    assert got == status, body
    if status != 101:
        assert headers["Content-Type"] == "application/problem+json" and json.loads(body)["status"] == status
        assert json.loads(body)["request_id"] == headers["X-Request-Id"]
        daemon.wait_log(f"event=ws_refused request={headers['X-Request-Id']} status={status}")


@pytest.mark.parametrize("to, refused", [("h2c", 426), ("h2c, websocket", 403), ("raw", 403), ("websockets", 403)])
def test_an_upgrade_to_anything_else_is_refused(daemon, to, refused):
    """libwebsockets speaks HTTP/2 as well, which nobody here wants; 403 is its own word."""
    status, headers, body = upgrade(daemon, "/v1/streams/other/ws", Upgrade=to,
                                    **{"HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA", "Connection": "Upgrade, HTTP2-Settings"})
    assert status == refused, body
    assert daemon.get("/v1/streams/other").status == 404


def test_a_zero_byte_in_the_path_is_the_end(daemon):
    with pytest.raises(http.client.RemoteDisconnected):
        upgrade(daemon, "/v1/streams/a%00b/ws")
    assert upgrade(daemon, "/v1/streams/a/ws?takeover=1")[0] == 101


def test_a_stream_keeps_its_model_and_mode(daemon):
    assert upgrade(daemon, "/v1/streams/kept/ws?mode=clip")[0] == 101
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


UPGRADE = (b"GET /v1/streams/smuggled/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
           b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")


@pytest.mark.parametrize("head, more", [("GET / HTTP/1.1", b""), (f"POST / HTTP/1.1\r\nContent-Length: {len(UPGRADE)}", b""),
                                        (f"POST / HTTP/1.1\r\nContent-Length: {len(UPGRADE)}", UPGRADE)], ids=range(3))
def test_what_is_no_upgrade_is_the_last_of_its_connection(daemon, head, more):
    """What follows would be another client's, behind a proxy that takes it for the body."""
    with socket.create_connection(("127.0.0.1", daemon.ws_port), timeout=60) as s:
        s.sendall(f"{head}\r\nHost: localhost\r\n\r\n".encode() + UPGRADE + more)
        answer = s.recv(65536)
        with contextlib.suppress(ConnectionResetError):
            while piece := s.recv(65536):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 426 ") and answer.count(b"HTTP/1.1 ") == 1
    assert daemon.get("/v1/streams/smuggled").status == 404


def test_who_sends_an_upload_to_this_port_reads_why_not(daemon):
    with socket.create_connection(("127.0.0.1", daemon.ws_port), timeout=60) as s:
        s.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000000\r\n\r\n")
        for _ in range(128):  # long after the answer
            s.sendall(bytes(1 << 16))
        assert s.recv(65536).startswith(b"HTTP/1.1 426 ")


def test_a_draft_of_the_protocol_is_told_the_version(daemon):
    for version in ("0", "8", "14", "130"):
        status, headers, _ = upgrade(daemon, "/v1/streams/draft/ws", **{"Sec-WebSocket-Version": version})
        assert (status, headers["Sec-WebSocket-Version"]) == (426, "13")


def test_a_refusal_has_the_clients_request_id(daemon):
    for sent, same in (("abc.1-_Z", True), ("x" * 64, True), ("x" * 65, False), ("a b", False)):
        _, headers, body = upgrade(daemon, "/v1/streams/a%2Fb/ws", **{"X-Request-Id": sent})
        assert (headers["X-Request-Id"] == sent) == same and json.loads(body)["request_id"] == headers["X-Request-Id"]


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


@pytest.mark.parametrize("name", ["a" + 40 * "\u20ac", 200 * "\U0001f600", 13 * "\u00e4\u20ac" + "\u20ac"], ids=range(3))
def test_a_reason_that_quotes_the_client_is_text(daemon, name):
    async def run():
        async with Raw(daemon, "quotes?takeover=1") as c:
            await c.send(json.dumps({"type": name}, ensure_ascii=False))
            assert await c.closed() == 1002  # a reason that is not UTF-8 would be the client's 1007
            assert c.socket.close_reason.startswith("there is no control message")
    asyncio.run(run())


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
        self.s = socket.create_connection(("127.0.0.1", daemon.ws_port), timeout=PATIENCE)
        self.s.sendall(f"GET /v1/streams/{name}/ws?takeover=1{query} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: "
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


def number(code: int) -> bytes:
    return struct.pack(">H", code)


BROKEN = {  # frames that the protocol forbids: RFC 6455, and what Autobahn's cases 2 to 7 try
    "the first reserved bit": (1002, (0xC1, b"{}")),
    "the second": (1002, (0xA1, b"{}")),
    "the third": (1002, (0x91, b"{}")),
    **{f"opcode {o}": (1002, (0x80 | o, b"")) for o in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a fragmented ping": (1002, (0x09, b"")),
    "a fragmented close": (1002, (0x08, number(1000))),
    "a continuation of nothing": (1002, (0x80, b"x")),
    "an open continuation of nothing": (1002, (0x00, b"x")),
    "a text within a text": (1002, (0x01, b"{"), (0x81, b"{}")),
    "a binary message within a text": (1002, (0x01, b"{"), (0x82, b"{}")),
    "text that is not UTF-8": (1007, (0x81, b'"\xff\xfe"')),
    "an overlong character": (1007, (0x81, b'"\xc0\xaf"')),
    "half of a surrogate pair": (1007, (0x81, b'"\xed\xa0\x80"')),
    "a character beyond the last": (1007, (0x81, b'"\xf4\x90\x80\x80"')),
    "text that ends within a character": (1007, (0x81, b'"\xe2\x82')),
    "a character broken by a fragment": (1007, (0x01, b'"\xe2'), (0x80, b'\x28"')),
    **{f"close code {c}": (1002, (0x88, number(c)))
       for c in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)},
    "half a close code": (1002, (0x88, b"\x03")),
    "a reason that ends within a character": (1007, (0x88, number(1000) + b"\xe2\x82")),
}
ALLOWED = {  # code of the answer, frames
    **{f"close code {c}": (c, (0x88, number(c)))
       for c in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)},
    "a close without a code": (1005, (0x88, b"")),
    "a close with a reason of the greatest length": (1000, (0x88, number(1000) + 123 * b"x")),
    "a close within a message": (1000, (0x01, b"{"), (0x88, number(1000))),
}


@pytest.mark.parametrize("what", BROKEN)
def test_frames_against_the_protocol_end_the_connection(daemon, what):
    code, *frames = BROKEN[what]
    w = Wire(daemon, "against")
    for first, payload in frames:
        w.send(first, payload)
    assert w.ended() == code
    w.send(0x88, number(code))  # our half of the closing
    assert w.ended() is None


@pytest.mark.parametrize("what", ALLOWED)
def test_a_close_is_answered_and_is_the_end(daemon, what):
    code, *frames = ALLOWED[what]
    w = Wire(daemon, "closes")
    for first, payload in frames:
        w.send(first, payload)
    w.s.sendall(b"\x89\x80\0\0\0\0")  # a ping that gets no pong
    assert w.ended() == code
    with contextlib.suppress(ConnectionResetError):
        assert w.s.recv(1) == b""


@pytest.mark.parametrize("frame", [
    b"\x89\xfe" + number(126) + bytes(4 + 126),                           # a ping beyond 125 bytes
    b"\x88\xfe" + number(126) + bytes(4) + number(1000) + 124 * b"x",     # a close beyond them
    b"\x82\xff" + struct.pack(">Q", 1 << 63) + bytes(4),                  # a length with the highest bit
    b"\x88\x84\0\0\0\0" + number(1000) + b"\xff\xfe",                    # a reason that is not UTF-8
], ids=range(4))
def test_frames_that_cannot_be_end_the_connection_at_once(daemon, frame):
    w = Wire(daemon, "cannot")
    w.s.sendall(frame)
    assert w.ended() in (None, 1002, 1007)


def test_a_message_is_refused_when_its_length_is_announced(daemon):
    """Not when the bytes are here: they may never come."""
    w = Wire(daemon, "announced")
    w.s.sendall(b"\x82\xff" + struct.pack(">Q", 1 << 40) + b"\0\0\0\0TV3F")
    assert w.ended() == 1009


def test_control_frames_may_stand_between_fragments(daemon):
    w = Wire(daemon, "between")
    step = len(MESSAGE) // 3 + 1
    for i in range(3):
        w.send((2 if i == 0 else 0) | (0x80 if i == 2 else 0), MESSAGE[i * step:(i + 1) * step])
        if i < 2:
            w.send(0x8A, b"a pong that nobody asked for")
            w.send(0x89, b"ping %d" % i)
            assert w.frame() == (10, b"ping %d" % i)
    opcode, answer = w.frame()
    assert opcode == 2 and answer[:4] == b"TV3M"
    w.send(0x89, 125 * b"y")
    assert w.frame() == (10, 125 * b"y")
    w.send(0x01, b'{"type":"st')
    w.send(0x89, b"")
    w.send(0x80, b'ats"}')
    assert w.frame() == (10, b"") and w.frame()[0] == 1


def test_a_sender_of_single_bytes_holds_back_itself_alone(daemon):
    message = b"\x82\xfe" + struct.pack(">H", len(MESSAGE)) + b"\0\0\0\0" + MESSAGE

    async def others(i):
        async with Raw(daemon, f"beside-bytes-{i}?takeover=1") as c:
            await c.send(header(0, width=48, height=32) + FRAME.tobytes())
            assert await c.answer() == 0
    w = Wire(daemon, "bytes")
    w.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(0, 200):
        w.s.sendall(message[at:at + 1])
        if at % 50 == 0:
            asyncio.run(others(at))
    w.s.sendall(message[200:])
    opcode, answer = w.frame()
    assert opcode == 2 and struct.unpack_from("<q", answer, 8)[0] == 0


def test_a_disconnect_at_each_step_leaves_nothing(daemon):
    request = (b"GET /v1/streams/steps/ws?takeover=1 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket"
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
    daemon.wait_for(lambda: daemon.metric('tv3sd_connections{protocol="ws"}') == 0)
    assert close_code(daemon, b"junk") == 1002  # it still serves


def test_a_client_that_answers_no_ping_is_closed(tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "s", "--ws-timeout", "6") as d:
        w, opcodes = Wire(d, "silent"), []
        with pytest.raises((EOFError, ConnectionError)):
            while True:
                opcodes.append(w.frame()[0])
        assert 9 in opcodes


async def flood(daemon, target: str, payload: bytes, count: int, **head) -> tuple[list[int], list[int]]:
    """Sends frames without regard to credit: which were answered, and which dropped. Pings wait behind what is not
    read, so it sends none."""
    async with Raw(daemon, target, ping_interval=None) as c:
        async def send():
            for i in range(count):
                await c.send(header(i, **head) + payload)
            await c.send('{"type":"end"}')
        sending = asyncio.create_task(send())
        answered, dropped = [], []
        while True:
            message = await c.recv()
            if isinstance(message, bytes):
                answered.append(int.from_bytes(message[8:16], "little"))
            elif json.loads(message)["type"] == "dropped":
                dropped += json.loads(message)["seq"]
            elif json.loads(message)["type"] == "bye":
                await sending
                assert sorted(answered + dropped) == list(range(count))
                return answered, dropped


@pytest.mark.parametrize("drop", ["newest", "oldest"])
def test_a_flood_is_read_no_faster_than_16_frames_an_answer(daemon, drop):
    """Frames that are nothing to send and much to label: all of them would be here before the first answers."""
    png = io.BytesIO()
    Image.new("RGB", (640, 480), (90, 90, 90)).save(png, "PNG")
    target = f"flood-{drop}?drop={drop}&credit=1&format=rle"
    answered, dropped = asyncio.run(flood(daemon, target, png.getvalue(), 300, kind=1))
    assert len(dropped) <= 16 * len(answered), (len(dropped), len(answered))


@pytest.mark.parametrize("drop", ["newest", "oldest"])
def test_of_a_flood_no_more_than_100_frames_a_second_are_read_to_be_dropped(daemon, drop):
    """Frames that are quick to label: by the answers alone 16 times as many would be dropped."""
    begun = time.monotonic()
    target = f"quick-{drop}?drop={drop}&credit=1&format=rle&mode=frame"
    answered, dropped = asyncio.run(flood(daemon, target, FRAME.tobytes(), 1000, width=48, height=32))
    seconds = time.monotonic() - begun
    assert len(dropped) <= 17 + 100 * seconds, (len(dropped), seconds)


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
