"""Clients that send a byte now and then, for ever: what they have begun is ended by its time limit, and holds up nobody."""
from __future__ import annotations

import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

import chaos
import cases
import masks
from daemon import CUDA_HOST_TV3SD, PATIENCE, Daemon
from live import header

HEAD = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
UPGRADE = b"GET /v1/streams/slow/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: "
HELLO = bytes.fromhex("16030100f8010000f40303") + b"r" * 32  # of TLS: a client's first words, cut off
SLOW = {  # the port, what is said at once, and byte by byte
    "head": ("http_port", b"", HEAD),
    "head-of-the-second": ("http_port", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", HEAD),
    "body": ("http_port", HEAD + b"\r\n", b""),
    "refused-body": ("http_port", HEAD.replace(b"segment", b"nothing") + b"\r\n", b""),
    "upgrade": ("ws_port", b"", UPGRADE),
    "body-of-no-upgrade": ("ws_port", HEAD + b"\r\n", b""),
}


class Trickle(threading.Thread):
    """Sends until the other side has enough."""

    def __init__(self, port: int, at_once: bytes, slowly: bytes):
        super().__init__()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.at_once, self.slowly, self.sent, self.ended = at_once, slowly, 0, False

    def run(self) -> None:
        end = time.monotonic() + PATIENCE
        with self.socket as s:
            try:
                s.sendall(self.at_once)
                s.setblocking(False)
                while time.monotonic() < end:
                    s.send(self.slowly[self.sent:self.sent + 1] or b"x")
                    self.sent += 1
                    time.sleep(0.1)
                    try:
                        if not s.recv(4096):
                            break
                    except BlockingIOError:
                        pass
                else:
                    return
            except ConnectionError:
                pass
            self.ended = True


def trickle(d: Daemon, cases: dict) -> None:
    process = chaos.Process(d.process.pid)
    clients = {name: Trickle(getattr(d, port), *bytes_) for name, (port, *bytes_) in cases.items()}
    for c in clients.values():
        c.start()
    for c in clients.values():
        c.join()
    assert [name for name, c in clients.items() if not c.ended] == []
    return process


@pytest.fixture(scope="module")
def d(tiny_model, tmp_path_factory):
    with Daemon(tiny_model, tmp_path_factory.mktemp("slow") / "s", "--http-timeout", "2", "--ws-timeout", "6") as d:
        yield d


def test_who_trickles_is_hung_up_on(d):
    def held() -> float:
        return d.metric('tv3sd_connections{protocol="http"}') - 1 + d.metric('tv3sd_connections{protocol="ws"}')
    before = chaos.settled(chaos.Process(d.process.pid))
    trickle(d, SLOW)
    d.wait_for(lambda: held() == 0)
    assert chaos.settled(chaos.Process(d.process.pid)) == before
    assert d.json("/v1/streams")["streams"] == [] and d.json("/v1/videos")["videos"] == [] and d.folders() == []


def test_who_trickles_into_an_upload_leaves_none(d):
    trickle(d, {"upload": ("http_port", HEAD.replace(b"segment", b"videos") + b"\r\n", b"")})
    d.wait_for(lambda: d.folders() == [] and d.json("/v1/videos")["videos"] == [])


def test_who_sends_slowly_but_surely_is_served(tiny_model, tmp_path):
    """More than the time limit, with 16 KiB in each."""
    size = 16 << 10
    with Daemon(tiny_model, tmp_path / "s", "--http-timeout", "6") as d, socket.create_connection(("127.0.0.1", d.http_port), timeout=PATIENCE) as s:
        s.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (size * 8))
        for _ in range(8):
            s.sendall(b"x" * size)
            time.sleep(0.8)   # a machine that stands still for five seconds more would fail it
        assert s.recv(12) == b"HTTP/1.1 415"


def reader(port: int) -> socket.socket:
    """Takes segments so small that the daemon sees some taken all the time."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 88)
    s.settimeout(PATIENCE)
    s.connect(("127.0.0.1", port))
    return s


def test_who_reads_a_trickle_is_hung_up_on(d):
    with reader(d.http_port) as s:
        s.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 60)
        end = time.monotonic() + PATIENCE
        with pytest.raises(ConnectionResetError):
            while s.recv(200) and time.monotonic() < end:
                time.sleep(0.1)
    d.wait_for(lambda: d.metric('tv3sd_connections{protocol="http"}') == 1)


def test_who_reads_a_trickle_of_masks_is_hung_up_on(d):
    """Though it goes on sending, which shows that it lives."""
    stats = b'{"type":"stats"}'
    with reader(d.ws_port) as s:
        s.sendall(UPGRADE.replace(b"slow/ws", b"slow/ws?format=raw&credit=8&resize=64x64")[:-3] + b"Sec-WebSocket-Version: 13\r\n"
                  b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        frame = bytes(1000 * 1000 * 3)
        for seq in range(4):
            message = header(seq, width=1000, height=1000) + frame
            s.sendall(b"\x82\xff" + struct.pack(">Q", len(message)) + bytes(4) + message)
        end = time.monotonic() + PATIENCE
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while s.recv(200) and time.monotonic() < end:
                s.sendall(b"\x81" + bytes([128 | len(stats)]) + bytes(4) + stats)
                time.sleep(0.2)
    d.wait_for(lambda: d.metric('tv3sd_connections{protocol="ws"}') == 0)


@pytest.mark.parametrize("body", [b"Content-Length: 2000000\r\n", b"Content-Length: 9\r\nExpect: 100-continue\r\n"])
def test_a_body_that_is_not_read_cuts_no_answer_that_lasts(tiny_model, tmp_path, body):
    """Events, asked for with a body that never comes, outlast the time limit of bodies. The job lasts: its engine is held."""
    video = masks.video(tmp_path / "a.mp4", cases.frames((64, 96), 10, 5), "-c:v", "libx264", "-pix_fmt", "yuv420p")
    with Daemon(tiny_model, tmp_path / "s", "--http-timeout", "2", "--device", "cuda", "--room-size", "",
                program=CUDA_HOST_TV3SD) as d:
        d.process.send_signal(signal.SIGUSR2)
        job = d.upload(video, wait=False)
        d.wait_log("the stand-in is waited for")
        with socket.create_connection(("127.0.0.1", d.http_port), timeout=PATIENCE) as s:
            s.sendall(b"GET /v1/videos/%s/events HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (job["id"].encode(), body))
            told = s.recv(4096)
            with socket.create_connection(("127.0.0.1", d.http_port), timeout=PATIENCE) as idle:
                assert idle.recv(1) == b""  # the time limit of one who came later is over
            assert d.request("DELETE", "/v1/videos/" + job["id"]).status == 204
            d.process.send_signal(signal.SIGUSR2)
            while b"event: end" not in told:
                more = s.recv(4096)
                assert more, told
                told += more


def test_a_handshake_of_tls_has_the_same_limit(tiny_model, tmp_path):
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost",
                    "-days", "2", "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    with Daemon(tiny_model, tmp_path / "s", "--http-timeout", "2", "--tls-certificate", files[0], "--tls-key", files[1]) as d:
        trickle(d, {"http": ("http_port", b"", HELLO), "ws": ("ws_port", b"", HELLO)})


def waiting(port: int) -> int:
    """Connections that the kernel has made and nobody has accepted."""
    with open("/proc/net/tcp") as f:
        for line in f.readlines()[1:]:
            _, local, _, state, queues, *_ = line.split()
            if state == "0A" and local.endswith(f":{port:04X}"):
                return int(queues.split(":")[1], 16)
    raise KeyError(port)


def test_who_comes_and_never_asks_takes_no_more_descriptors_than_there_may_be_websockets(tiny_model, tmp_path):
    """On the port of WebSockets, where a stranger had all of the process. Who waits comes in when others have gone."""
    with Daemon(tiny_model, tmp_path / "s", "--ws-connections", "5") as d:
        process = chaos.Process(d.process.pid)
        before = chaos.settled(process)
        crowd = [socket.create_connection(("127.0.0.1", d.ws_port), timeout=PATIENCE) for _ in range(30)]
        crowd[-1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        d.wait_for(lambda: waiting(d.ws_port) <= 20)
        assert chaos.figures(process)["descriptors"] <= before["descriptors"] + 10
        assert d.get("/livez").status == 200
        for s in crowd[:20]:
            s.close()
        assert crowd[-1].recv(12) == b"HTTP/1.1 426"
        for s in crowd[20:]:
            s.close()
        d.wait_for(lambda: chaos.settled(process) == before)
