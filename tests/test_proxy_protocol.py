"""The PROXY protocol, by HAProxy, curl and headers made by hand: whoever is in trusted_proxies says who is behind it, on
both ports, with TLS and without; nobody else does."""
from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import socket
import ssl
import struct
import subprocess

import pytest
import websockets

import chaos
from authority import Authority
from balancers import Balancer, Haproxy, free_port
from daemon import PATIENCE, Daemon

PROXY, STRANGER = "127.0.9.1", "127.0.1.1"
GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: %s\r\nConnection: close\r\n\r\n"
numbers = itertools.count(1)


def v2(command: int, family: int, rest: bytes, length=None) -> bytes:
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", command, family, len(rest) if length is None else length) + rest


def inet(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


PAIR4, PAIR6 = inet("192.0.2.9") + inet("10.0.0.1") + b"\1\2\3\4", inet("2001:db8::7") + inet("::1") + b"\1\2\3\4"
TLVS = b"\x01\0\2h2" + b"\x20\0\5\1\0\0\0\0" + b"\x02\x03\xe8" + b"n" * 1000
GOOD = {  # the header, and whom it names; None: whoever connects
    "v1-tcp4": (b"PROXY TCP4 192.0.2.9 10.0.0.1 258 772\r\n", "192.0.2.9"),
    "v1-tcp6": (b"PROXY TCP6 2001:db8::7 ::1 0 65535\r\n", "2001:db8::7"),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1-unknown-more": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    "v2-tcp4": (v2(0x21, 0x11, PAIR4), "192.0.2.9"),
    "v2-tcp6": (v2(0x21, 0x21, PAIR6), "2001:db8::7"),
    "v2-tlvs": (v2(0x21, 0x11, PAIR4 + TLVS), "192.0.2.9"),
    "v2-local": (v2(0x20, 0x00, b""), None),
    "v2-local-more": (v2(0x20, 0xff, PAIR4), None),
    "v2-unspec": (v2(0x21, 0x00, TLVS), None),
    "v2-udp": (v2(0x21, 0x12, PAIR4), None),
    "v2-unix": (v2(0x21, 0x31, b"/run/x".ljust(216, b"\0")), None),
    "v2-longest": (v2(0x21, 0x11, PAIR4.ljust(4080, b"\0")), "192.0.2.9"),
}
BAD = {
    "none": b"",
    "v1-no-cr": b"PROXY TCP4 192.0.2.9 10.0.0.1 258 772\n",
    "v1-cr-within": b"PROXY UNKNOWN\r \r\n",
    "v1-endless": b"PROXY UNKNOWN ".ljust(107, b"x"),
    "v1-family": b"PROXY TCP5 192.0.2.9 10.0.0.1 258 772\r\n",
    "v1-other-family": b"PROXY TCP4 2001:db8::7 ::1 258 772\r\n",
    "v1-port": b"PROXY TCP4 192.0.2.9 10.0.0.1 65536 772\r\n",
    "v1-port-zero": b"PROXY TCP4 192.0.2.9 10.0.0.1 0258 772\r\n",
    "v1-few": b"PROXY TCP4 192.0.2.9 10.0.0.1 258\r\n",
    "v1-many": b"PROXY TCP4 192.0.2.9 10.0.0.1 258 772 1\r\n",
    "v1-spaces": b"PROXY TCP4  192.0.2.9 10.0.0.1 258 772\r\n",
    "v2-version": v2(0x11, 0x11, PAIR4),
    "v2-command": v2(0x22, 0x11, PAIR4),
    "v2-family": v2(0x21, 0x41, PAIR4),
    "v2-protocol": v2(0x21, 0x13, PAIR4),
    "v2-short": v2(0x21, 0x21, PAIR4),
    "v2-huge": v2(0x21, 0x11, PAIR4, length=65535),
}


@pytest.fixture(scope="module")
def d(tiny_model, tmp_path_factory):
    with Daemon(tiny_model, tmp_path_factory.mktemp("proxied") / "s", "--proxy-protocol", "--trusted-proxies", "127.0.9.0/24",
                "--address-connections", "2") as d:
        yield d


def connect(port: int, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE, source_address=(source, 0))


def everything(s: socket.socket) -> bytes:
    try:
        return b"".join(iter(lambda: s.recv(65536), b""))
    except ConnectionResetError:
        return b""


def client_of(d: Daemon, name: str) -> str:
    return d.wait_log(rf"event=http request={name} .*client=(\S+) ")[1]


def ask(d: Daemon, source: str, *pieces: bytes, wrap=lambda s: s) -> tuple[bytes, str]:
    """The answer to GET after some words, and the request's name."""
    name = f"ask-{next(numbers)}"
    with connect(d.http_port, source) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                s.sendall(piece)
            with wrap(s) as t:
                t.sendall(GET % name.encode())
                return everything(t), name
    return b"", name


@pytest.mark.parametrize("name", GOOD)
def test_a_proxy_names_the_client(d, name):
    header, client = GOOD[name]
    step = len(header) // 200 + 1  # the longest has no time for a byte each
    bits = [header[i:i + step] for i in range(0, len(header), step)]
    for pieces in ([header], bits, [header[:13], header[13:]]):
        answer, request = ask(d, PROXY, *pieces)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert client_of(d, request) == (client or PROXY)


@pytest.mark.parametrize("name", BAD)
def test_a_proxy_without_a_right_header_is_closed(d, name):
    assert ask(d, PROXY, BAD[name])[0] == b""


def test_headers_that_do_not_end(d):
    """Closed without a word: those that end within, at once; those that stay, in a few seconds. Nothing of them is left."""
    process = chaos.Process(d.process.pid)
    assert d.get("/livez").status == 200
    before = chaos.settled(process)
    for port, (header, _) in itertools.product((d.http_port, d.ws_port), GOOD.values()):
        with connect(port, PROXY) as s:
            s.sendall(header[:-1])
            s.shutdown(socket.SHUT_WR)
            assert everything(s) == b""
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(port, PROXY)) for port in (d.http_port, d.ws_port) for _ in range(20)]
        for s in waiting[::2]:
            s.sendall(b"PROXY ")
        assert ask(d, STRANGER)[0].startswith(b"HTTP/1.1 200 ")  # meanwhile
        assert [everything(s) for s in waiting] == [b""] * len(waiting)
    d.wait_log(r'event=proxy_header proxy=127\.0\.9\.1 error="no PROXY header in time"')
    assert chaos.settled(process) == before


def test_strangers_name_nobody(d):
    answer, request = ask(d, STRANGER)
    assert answer.startswith(b"HTTP/1.1 200 ") and client_of(d, request) == STRANGER
    for header in (GOOD["v1-tcp4"][0], GOOD["v2-tcp4"][0]):
        answer, request = ask(d, STRANGER, header)
        assert not answer.startswith(b"HTTP/1.1 200 ") and f"request={request} " not in d.log()


def test_the_client_is_counted_and_not_the_proxy(d):
    header = b"PROXY TCP4 198.51.100.%d 10.0.0.1 258 772\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            s = stack.enter_context(connect(d.http_port, PROXY))
            s.sendall(header % 1 + (GET % b"kept").replace(b"close", b"keep-alive"))
            assert s.recv(12) == b"HTTP/1.1 200"
        assert ask(d, PROXY, header % 1)[0] == b""
        assert ask(d, PROXY, header % 2)[0].startswith(b"HTTP/1.1 200 ")


def test_a_header_of_http_counts_of_a_proxy_behind_the_proxy(d):
    """The last proxy is the peer then, and X-Forwarded-For is its word; of a client it is not looked at."""
    for last, client in (("127.0.9.77", "203.0.113.8"), ("203.0.113.5", "203.0.113.5")):
        with connect(d.http_port, PROXY) as s:
            name = f"chain-{next(numbers)}"
            s.sendall(b"PROXY TCP4 %s 10.0.0.1 258 772\r\n" % last.encode() +
                      (GET % name.encode()).replace(b"Connection", b"X-Forwarded-For: 203.0.113.8\r\nConnection"))
            assert everything(s).startswith(b"HTTP/1.1 200 ")
        assert client_of(d, name) == client


async def stream(d: Daemon, name: str, source: str, header: bytes, **more):
    s = connect(d.ws_port, source)
    s.sendall(header)
    ws = await websockets.connect(f"ws{'s' if more else ''}://localhost:{d.ws_port}/v1/streams/{name}/ws", sock=s, **more)
    assert json.loads(await ws.recv())["type"] == "hello"
    return ws


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_websockets_too(d, version):
    header = {"v1": b"PROXY TCP6 2001:db8:1::1 ::1 1 2\r\n", "v2": v2(0x21, 0x11, inet("198.51.100.9") + PAIR4[4:])}[version]
    other = GOOD["v2-tcp6"][0]

    async def scenario() -> None:
        a, b = await stream(d, version + "a", PROXY, header), await stream(d, version + "b", PROXY, header)
        with pytest.raises((OSError, EOFError, websockets.InvalidMessage)):  # the third of the address
            await stream(d, version + "c", PROXY, header)
        c = await stream(d, version + "c", PROXY, other)
        plain = await stream(d, version + "d", STRANGER, b"")
        for ws in (a, b, c, plain):
            await ws.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("name", BAD)
def test_a_websocket_without_a_right_header_is_closed(d, name):
    with connect(d.ws_port, PROXY) as s, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        s.sendall(BAD[name] + b"GET /v1/streams/x/ws HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert everything(s) == b""


def test_the_header_comes_before_tls(tiny_model, tmp_path):
    authority, files = Authority(tmp_path), (tmp_path / "cert.pem", tmp_path / "key.pem")
    authority.certify(*files, 100)
    context = ssl._create_unverified_context()
    with Daemon(tiny_model, tmp_path / "s", "--proxy-protocol", "--trusted-proxies", PROXY, "--tls-certificate", files[0],
                "--tls-key", files[1]) as d:
        for version in ("v1-tcp6", "v2-tlvs"):
            header, client = GOOD[version]
            answer, request = ask(d, PROXY, header, wrap=context.wrap_socket)
            assert answer.startswith(b"HTTP/1.1 200 ") and client_of(d, request) == client

            async def scenario() -> None:
                ws = await stream(d, version, PROXY, header, ssl=context, server_hostname="localhost")
                await ws.close()
            asyncio.run(scenario())


def test_curl_sends_one(tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "s", "--proxy-protocol", "--trusted-proxies", PROXY) as d:
        url = f"http://127.0.0.1:{d.http_port}/v1/models"
        r = subprocess.run(["curl", "-sSf", "--interface", PROXY, "--haproxy-protocol", "-H", "X-Request-Id: curl", url],
                           capture_output=True, text=True, timeout=PATIENCE)
        assert r.returncode == 0, r.stderr
        assert client_of(d, "curl") == PROXY
        r = subprocess.run(["curl", "-sS", "--interface", PROXY, url], capture_output=True, text=True, timeout=PATIENCE)
        assert r.returncode in (52, 56), r.stderr  # closed: nobody guesses


def test_without_the_setting_it_is_no_header(tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "s", "--trusted-proxies", PROXY) as d:
        assert not ask(d, PROXY, GOOD["v1-tcp4"][0])[0].startswith(b"HTTP/1.1 200 ")
        assert ask(d, PROXY)[0].startswith(b"HTTP/1.1 200 ")


def test_who_is_trusted_must_be_said(tiny_model, tmp_path):
    with pytest.raises(AssertionError, match="proxy_protocol wants trusted_proxies"):
        Daemon(tiny_model, tmp_path / "s", "--proxy-protocol")


def test_who_finds_no_place_waits_for_one(tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "s", "--http-connections", "2") as d, contextlib.ExitStack() as stack:
        a, b, c = (stack.enter_context(connect(d.http_port, STRANGER)) for _ in range(3))
        for s in (a, b, c):
            s.sendall((GET % b"x").replace(b"close", b"keep-alive"))
        assert a.recv(12) == b.recv(12) == b"HTTP/1.1 200"
        c.setblocking(False)
        with pytest.raises(BlockingIOError):
            c.recv(12)
        c.settimeout(PATIENCE)
        a.close()
        assert c.recv(12) == b"HTTP/1.1 200"


# ------------------------------------------------------------------------------------------------------- HAProxy
class Tcp(Balancer):
    """HAProxy that reads nothing of what it passes on; with every TLV that it can send without TLS."""
    COMMAND = Haproxy.COMMAND

    def __init__(self, folder, d: Daemon, send: str):
        self.send, self.ws_port = send, free_port()
        super().__init__(folder, [d])

    def configure(self, daemons) -> None:
        text = "global\n    log stderr format raw local0\ndefaults\n    mode tcp\n    timeout connect 5s\n" \
               "    timeout client 120s\n    timeout server 120s\n"
        for name, port, to in (("http", self.port, daemons[0].http_port), ("ws", self.ws_port, daemons[0].ws_port)):
            text += f"listen {name}\n    bind 127.0.0.1:{port}\n    unique-id-format %[uuid()]\n" \
                    f"    server s 127.0.0.1:{to} {self.send}\n"
        with open(self.path("haproxy.cfg"), "w") as f:
            f.write(text)


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
def test_haproxy_says_who_is_behind_it(tiny_model, tmp_path, send):
    with Daemon(tiny_model, tmp_path / "s", "--proxy-protocol", "--trusted-proxies", "127.0.0.1", "--address-connections",
                "2") as d, Tcp(tmp_path / "h", d, send) as h:
        with connect(h.port, "127.0.4.1") as s:
            s.sendall(GET % b"by-haproxy")
            assert everything(s).startswith(b"HTTP/1.1 200 ")
        assert client_of(d, "by-haproxy") == "127.0.4.1"

        async def scenario() -> None:
            async def via(name: str, source: str):
                return await websockets.connect(f"ws://127.0.0.1:{h.ws_port}/v1/streams/{name}/ws", local_addr=(source, 0))
            a, b = await via("a", "127.0.4.1"), await via("b", "127.0.4.1")
            with pytest.raises((OSError, EOFError, websockets.InvalidMessage)):
                await via("c", "127.0.4.1")
            c = await via("c", "127.0.4.2")
            for ws in (a, b, c):
                await ws.close()

        asyncio.run(scenario())


class Variant(Haproxy):
    """deploy/haproxy.cfg with its line about the PROXY protocol."""

    def adapt(self, text: str) -> str:
        assert text.count("# default-server send-proxy-v2") == 1
        return super().adapt(text.replace("# default-server send-proxy-v2", "default-server send-proxy-v2"))


def test_the_variant_of_deploy(tiny_model, tmp_path):
    """Its health checks are LOCAL; connections that it keeps are one client's."""
    with Daemon(tiny_model, tmp_path / "s", "--proxy-protocol", "--trusted-proxies", "127.0.0.1",
                "--log-level", "debug") as d, \
            Variant(tmp_path / "h", [d]) as h:
        def asked(source: str) -> str:
            name = f"variant-{next(numbers)}"
            with connect(h.port, source) as s:
                s.sendall((GET % name.encode()).replace(b"/v1/models", b"/v1/streams"))
                assert everything(s).startswith(b"HTTP/1.1 200 ")
            return client_of(d, name)
        with connect(h.port, "127.0.4.9") as s:
            d.wait_log(r'target="/readyz" status=200 ')
            s.close()
        assert [asked(f"127.0.4.{i}") for i in (1, 2, 1, 3)] == [f"127.0.4.{i}" for i in (1, 2, 1, 3)]
        assert re.search("event=proxy_header", d.log()) is None
