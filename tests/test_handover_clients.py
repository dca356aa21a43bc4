"""Every client's own reconnecting, behind the real HAProxy, while the daemon that has its stream is stopped or killed."""
from __future__ import annotations

import signal
import types

import pytest

import masks
from balancers import Haproxy, free_port
from browser import Browser
from proxy import Proxy
from replicas import Redis, replica
from test_client_packets import X264, sent, tool_video
from test_clients import PICTURE, C, Js, Python

SIZE, COUNT, SEED = (64, 96), 60, 31  # SIZE as in test_clients
CREDIT = 4


@pytest.fixture
def balanced(tiny_model, tmp_path):
    """(what clients take for the daemon, the daemons, what is between for WebSockets)"""
    port = free_port()
    with Redis() as redis, Proxy() as proxy:
        proxy.target = port
        daemons = [replica(tiny_model, tmp_path / f"spool{i}", redis, "--snapshot-frames", 10, "--ws-url",
                           f"ws://127.0.0.1:{proxy.port}", "--open-access", "true") for i in range(3)]
        try:
            with Haproxy(tmp_path / "balancer", daemons, port) as b:
                yield types.SimpleNamespace(http_port=b.port, ws_port=b.port), daemons, proxy
        finally:
            for d in daemons:
                if d.process.poll() is None:
                    assert d.stop() == 0, d.log()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("chromium")) as b:
        yield b


@pytest.fixture(params=["python", "c", "js"])
def one(request, balanced, tmp_path):
    folder = tmp_path / "client"
    folder.mkdir()
    if request.param == "js":
        return Js(balanced[0], folder, request.getfixturevalue("chromium"))
    return {"python": Python, "c": C}[request.param](balanced[0], folder)


def home(daemons, id: str):
    """The daemon that has the stream."""
    there = [d for d in daemons if d.process.poll() is None and d.get(f"/v1/streams/{id}").status == 200]
    return there[0] if there else None


def end_the_first(daemons, number: int) -> None:
    """The daemon that has the stream and some of its frames gets the signal."""
    daemons[0].wait_for(lambda: home(daemons, "cam"))
    d = home(daemons, "cam")
    d.wait_for(lambda: d.json("/v1/streams/cam")["frames"] >= 25)
    d.process.send_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_a_client_goes_on_at_another_replica(one, balanced, frames, expected, number):
    goes_on(lambda: one.stream("cam", frames), balanced, 35 * PICTURE, expected, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_packets_go_on_at_another_replica(balanced, tiny_model, frames, tmp_path, number):
    path, want = tool_video(tiny_model, masks.video(tmp_path / "clip.mp4", frames, *X264, "-bf", "3"), tmp_path)
    one = C(balanced[0], tmp_path)
    goes_on(lambda: one.stream_file("cam", path, "packets"), balanced, sent(path, 40), want, number)


def goes_on(stream, balanced, some: int, expected, number: int) -> None:
    """When `some` of its bytes have come the daemon ends. Each mask is that of a stream in one daemon. A daemon that is stopped answers every frame, once; of one that is
    killed the answers to frames in flight may be missing, but not their effect."""
    _, daemons, proxy = balanced
    proxy.after(some, lambda: end_the_first(daemons, number))
    got = stream()
    assert proxy.planned == []
    assert [seq for seq in got if (got[seq] != expected[seq]).any()] == []
    missing = sorted(set(range(COUNT)) - set(got))
    assert len(missing) <= (0 if number == signal.SIGTERM else CREDIT), missing
    last = home(daemons, "cam")
    assert last.json("/v1/streams/cam")["frames"] == COUNT
    assert last.metric('tv3sd_streams_moved_total{direction="in"}') == 1
