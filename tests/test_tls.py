"""TLS on both ports, by curl, Python's ssl and websockets, under a certificate authority of the test's."""
from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import os

import pytest
import websockets

from authority import Authority
from conftest import BUILD, HERE
from daemon import PATIENCE, TV3SD, Daemon

sys.path.append(os.path.join(HERE, "../clients/python"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def files(authority, tmp_path):
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    authority.certify(*files, 100)
    return files


@pytest.fixture
def daemon(files, tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "spool", "--tls-certificate", files[0], "--tls-key", files[1]) as d:
        yield d


def serial(authority, port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as s, \
            authority.trust.wrap_socket(s, server_hostname="localhost") as tls:
        return int(tls.getpeercert()["serialNumber"], 16)


def curl(authority, d: Daemon, path: str, *args) -> subprocess.CompletedProcess:
    return subprocess.run(["curl", "-sS", "--noproxy", "*", "--cacert", authority.file, *args,
                           f"https://localhost:{d.http_port}{path}"], capture_output=True, timeout=PATIENCE)


def test_curl_and_websockets_speak_tls(authority, daemon, tiny_model, tmp_path):
    assert curl(authority, daemon, "/livez").stdout == b"ok\n"
    big = tmp_path / "big"
    big.write_bytes(b"x" * 3_000_000)
    refused = curl(authority, daemon, "/v1/segment", "-X", "POST", "-T", big)
    assert json.loads(refused.stdout)["status"] == 415
    chunked = curl(authority, daemon, "/v1/streams", "-X", "POST", "-T", big, "-H", "Transfer-Encoding: chunked", "-H",
                   "Expect:")
    assert b"/problems/over-limit" in chunked.stdout

    async def stream():
        url = f"wss://localhost:{daemon.ws_port}/v1/streams/a/ws"
        async with websockets.connect(url, subprotocols=["tv3s.v1"], ssl=authority.trust) as ws:
            return json.loads(await ws.recv())["type"]

    assert asyncio.run(stream()) == "hello"
    page = curl(authority, daemon, "/", "-i").stdout
    assert b"wss://localhost:%d" % daemon.ws_port in page


def test_the_python_client_speaks_tls(authority, daemon):
    import cases
    from test_http import image
    from tv3s_client import Client
    client, pngs = Client(f"https://localhost:{daemon.http_port}", ca=authority.file), [image(f) for f in cases.frames((64, 96), 3, 2)]
    with client.stream("b", format="raw") as stream:
        got = [answer.data for answer in stream.masks(pngs)]
    client.delete_stream("b")
    client.open_stream("b", format="raw")
    assert [client.frame("b", png).data for png in pngs] == got and len(got[0]) == 64 * 96


def test_the_python_client_says_with_what_it_failed(authority, daemon, tmp_path):
    from tv3s_client import Client
    https, http = f"https://localhost:{daemon.http_port}", f"http://localhost:{daemon.http_port}"
    for call in (Client(https).models, Client(https).ready):
        with pytest.raises(ssl.SSLCertVerificationError, match=https):
            call()
    assert not Client(http).ready()
    with pytest.raises(OSError, match="nobody.invalid"):
        Client("http://nobody.invalid").models()
    for ws in ("ws://127.0.0.1:1", "ws://localhost:1"):  # of one address, of several
        with pytest.raises(OSError, match=ws):
            Client(https, ws).stream("x").open()
    with pytest.raises(FileNotFoundError, match="none.pem"):
        Client(https, ca=tmp_path / "none.pem")
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(ssl.SSLError, match="empty.pem"):
        Client(https, ca=tmp_path / "empty.pem")


@pytest.fixture
def plain(tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "plain") as d:
        yield d


def test_a_client_that_should_have_spoken_tls_says_so_and_the_other_way(daemon, plain, tmp_path):
    """To a request without a body, and to one that breaks in the middle of it."""
    from tv3s_client import Client
    big = tmp_path / "big"
    big.write_bytes(bytes(3_000_000))
    for d, wrong, right, spoken in (daemon, "http", "https", "TLS"), (plain, "https", "http", "plain HTTP"):
        url, said = f"{wrong}://localhost:{d.http_port}", f"the server speaks {spoken} there: {right}://localhost:{d.http_port}"
        for call in (Client(url).models, lambda: Client(url).upload(big)):
            with pytest.raises(ConnectionError) as e:
                call()
            assert str(e.value) == f"{url}: {said}"
        for command in (["status"], ["upload", big, "-o", tmp_path / "none"]):
            done = subprocess.run([os.path.join(BUILD, "tv3s-client"), *command, "--url", url], capture_output=True, text=True,
                                  env={**os.environ, "no_proxy": "*"}, timeout=PATIENCE)
            assert done.returncode == 1 and done.stderr.endswith(f": {url}: {said}\n"), done.stderr


def test_neither_plain_text_nor_old_versions_nor_strangers(authority, daemon):
    for port in (daemon.http_port, daemon.ws_port):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as s:
            s.sendall(b"GET /v1/streams HTTP/1.1\r\nHost: localhost\r\n\r\n")
            try:
                assert b"streams" not in s.recv(4096)
            except ConnectionResetError:
                pass
        for version, good in (("1.1", False), ("1.2", True), ("1.3", True)):
            flag = "-tls" + version.replace(".", "_")
            done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", flag, "-cipher",
                                   "ALL:@SECLEVEL=0"], input=b"", capture_output=True, timeout=PATIENCE)
            assert (b"Cipher is (NONE)" not in done.stdout) == good, done.stdout
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as s, pytest.raises(ssl.SSLError):
            ssl.create_default_context().wrap_socket(s, server_hostname="localhost")
    assert curl(authority, daemon, "/livez").stdout == b"ok\n"


def test_nobody_speaks_http_2(authority, daemon):
    context = authority.trust
    context.set_alpn_protocols(["h2", "http/1.1"])
    for port in (daemon.http_port, daemon.ws_port):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as s, \
                context.wrap_socket(s, server_hostname="localhost") as tls:
            assert tls.selected_alpn_protocol() == "http/1.1"


def test_a_new_certificate_is_taken_at_sighup(authority, daemon, files, tmp_path):
    async def scenario():
        url = f"wss://localhost:{daemon.ws_port}/v1/streams/a/ws"
        async with websockets.connect(url, ssl=authority.trust) as ws:
            await ws.recv()
            authority.certify(*files, 200)
            daemon.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(daemon.wait_log, r"event=certificate_loaded")
            for port in (daemon.http_port, daemon.ws_port):
                assert await asyncio.to_thread(serial, authority, port) == 200
            await ws.send('{"type":"stats"}')  # the old connection goes on
            assert json.loads(await ws.recv())["type"] == "stats"

    for port in (daemon.http_port, daemon.ws_port):
        assert serial(authority, port) == 100
    asyncio.run(scenario())
    authority.certify(files[0], tmp_path / "other.pem", 300)  # the key stays the old one's
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_log(r"event=certificate_failed")
    for port in (daemon.http_port, daemon.ws_port):
        assert serial(authority, port) == 200


def test_a_new_certificate_of_another_kind_takes_the_place_of_the_old(authority, tiny_model, tmp_path):
    """Who wants the old kind gets none. With a key of RSA no secret is sent by it, so TLS 1.2 looks forward too."""
    def cipher(port: int, *flags: str) -> str:
        done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2", *flags], input=b"",
                              capture_output=True, timeout=PATIENCE)
        return re.search(r"Cipher is (\S+)", done.stdout.decode())[1]

    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    authority.certify(*files, 100, ["rsa:2048"])
    with Daemon(tiny_model, tmp_path / "spool", "--tls-certificate", files[0], "--tls-key", files[1]) as d:
        for port in (d.http_port, d.ws_port):
            assert serial(authority, port) == 100 and cipher(port, "-cipher", "kRSA") == "(NONE)"
            assert cipher(port, "-cipher", "ECDHE+aRSA") != "(NONE)"
        authority.certify(*files, 200)
        d.process.send_signal(signal.SIGHUP)
        d.wait_log(r"event=certificate_loaded")
        for port in (d.http_port, d.ws_port):
            assert cipher(port, "-cipher", "ECDHE+aRSA") == "(NONE)" and serial(authority, port) == 200


def test_files_that_are_no_certificate_are_an_error(authority, files, tiny_model, tmp_path):
    def refused(*flags) -> str:
        done = subprocess.run([TV3SD, "--model", tiny_model, "--http-port", "0", "--ws-port", "0", "--spool",
                               tmp_path / "s", *flags], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 2
        return done.stderr

    other = tmp_path / "other.pem"
    authority.certify(tmp_path / "unused.pem", other, 7)
    assert "go together" in refused("--tls-certificate", files[0])
    assert "none.pem" in refused("--tls-certificate", tmp_path / "none.pem", "--tls-key", files[1])
    assert "other.pem" in refused("--tls-certificate", files[0], "--tls-key", other)
    assert "cert.pem" in refused("--tls-certificate", files[0], "--tls-key", files[0])
