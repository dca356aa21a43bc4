"""Connections of one address, direct and behind a proxy. All of 127.0.0.0/8 is this machine's, so a test may come from
many addresses."""
from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket

import pytest
import websockets

from daemon import PATIENCE, Daemon


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory):
    with Daemon(tiny_model, tmp_path_factory.mktemp("daemon") / "spool", "--address-connections", "2",
                "--trusted-proxies", "127.0.9.0/24") as d:
        yield d


def connect(d: Daemon, source: str) -> http.client.HTTPConnection:
    c = http.client.HTTPConnection("127.0.0.1", d.http_port, timeout=PATIENCE, source_address=(source, 0))
    c.connect()
    return c


def status(c: http.client.HTTPConnection, path="/v1/models", **headers) -> int:
    c.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    r = c.getresponse()
    r.read()
    return r.status


def test_an_address_has_so_many_http_connections(daemon):
    with contextlib.ExitStack() as stack:
        mine = [stack.enter_context(contextlib.closing(connect(daemon, "127.0.1.1"))) for _ in range(2)]
        assert [status(c) for c in mine] == [200, 200]
        with contextlib.closing(connect(daemon, "127.0.1.1")) as third, pytest.raises(OSError):
            status(third)
        with contextlib.closing(connect(daemon, "127.0.1.2")) as other:
            assert status(other) == 200
        mine[0].close()

        def again() -> bool:
            with contextlib.closing(connect(daemon, "127.0.1.1")) as c, contextlib.suppress(OSError):
                return status(c) == 200
            return False

        daemon.wait_for(again)  # once the daemon has seen the end


def test_requests_are_counted_for_the_client_behind_a_proxy(daemon):
    def events(stack) -> http.client.HTTPConnection:
        """A request that lasts: a body that does not come."""
        c = stack.enter_context(contextlib.closing(connect(daemon, "127.0.9.1")))
        c.putrequest("POST", "/v1/segment")
        c.putheader("X-Forwarded-For", "1.2.3.4")  # the client's own words
        c.putheader("X-Forwarded-For", "198.51.100.7")
        c.putheader("Content-Length", "10")
        c.endheaders()
        return c

    with contextlib.ExitStack() as stack:
        for _ in range(2):
            events(stack)
        proxy = [stack.enter_context(contextlib.closing(connect(daemon, "127.0.9.1"))) for _ in range(4)]
        daemon.wait_for(lambda: status(proxy[0], X_Forwarded_For="198.51.100.7") == 429)
        assert [status(c, X_Forwarded_For="198.51.100.8") for c in proxy] == [200] * 4
        assert status(proxy[0], X_Forwarded_For="198.51.100.7, 198.51.100.9") == 200
        assert status(proxy[0], X_Forwarded_For="nonsense") == 400
        assert status(proxy[0]) == 200
    with contextlib.closing(connect(daemon, "127.0.9.1")) as c:
        daemon.wait_for(lambda: status(c, X_Forwarded_For="198.51.100.7") == 200)
    daemon.wait_log(r"event=http .*client=198\.51\.100\.9 ")
    with contextlib.closing(connect(daemon, "127.0.1.9")) as c:  # no proxy of ours
        assert status(c, X_Forwarded_For="203.0.113.5", X_Request_Id="stranger") == 200
    daemon.wait_log(r"request=stranger .*client=127\.0\.1\.9 ")


def test_websockets_are_counted_too(daemon):
    def stream(name: str, source: str, **headers):
        return websockets.connect(f"ws://127.0.0.1:{daemon.ws_port}/v1/streams/{name}/ws", local_addr=(source, 0),
                                  extra_headers=[(k.replace("_", "-"), v) for k, v in headers.items()])

    async def refused(name: str, source: str, **headers) -> int:
        try:
            async with stream(name, source, **headers) as ws:
                await ws.recv()
            return 101
        except websockets.InvalidStatusCode as e:
            return e.status_code
        except (OSError, websockets.InvalidMessage, EOFError):
            return 0  # closed before a word

    async def scenario():
        async with stream("a", "127.0.2.1") as a, stream("b", "127.0.2.1") as b:
            assert json.loads(await a.recv())["type"] == json.loads(await b.recv())["type"] == "hello"
            assert await refused("c", "127.0.2.1") == 0
            assert await refused("c", "127.0.2.2") == 101
        far = {"X_Forwarded_For": "203.0.113.1"}
        async with stream("a", "127.0.9.1", **far) as a, stream("b", "127.0.9.2", **far) as b:
            await a.recv(), await b.recv()
            assert await refused("c", "127.0.9.3", **far) == 429
            assert await refused("c", "127.0.9.3", X_Forwarded_For="203.0.113.1, 203.0.113.2") == 101
            assert await refused("c", "127.0.9.3", X_Forwarded_For="nonsense") == 400

    asyncio.run(scenario())


def test_who_never_asks_for_a_websocket_is_counted_as_well(daemon):
    def come() -> socket.socket:
        return socket.create_connection(("127.0.0.1", daemon.ws_port), timeout=PATIENCE, source_address=("127.0.3.1", 0))

    def let_in() -> bool:
        with come() as s, contextlib.suppress(ConnectionError):
            s.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return s.recv(12) == b"HTTP/1.1 426"
        return False

    with come() as first, come():
        assert not let_in()
        first.close()
        daemon.wait_for(let_in)
