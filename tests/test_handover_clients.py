"""Every client's own reconnecting, behind the real HAProxy, while the daemon that has its stream is stopped or killed."""
from __future__ import annotations

import signal
import threading
import types

import pytest

import masks
from balancers import Haproxy, free_port
from browser import Browser
from replicas import Redis, replica
from test_client_packets import X264, tool_video
from test_clients import C, Js, Python

SIZE, COUNT, SEED = (64, 96), 60, 31  # SIZE as in test_clients
PACE, CREDIT = 0.03, 4


@pytest.fixture
def balanced(tiny_model, tmp_path):
    """(what clients take for the daemon, the daemons)"""
    port = free_port()
    with Redis() as redis:
        daemons = [replica(tiny_model, tmp_path / f"spool{i}", redis, "--snapshot-frames", 10, "--ws-url",
                           f"ws://127.0.0.1:{port}", "--open-access", "true") for i in range(3)]
        try:
            with Haproxy(tmp_path / "balancer", daemons, port) as b:
                yield types.SimpleNamespace(http_port=b.port, ws_port=b.port), daemons
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


def end_the_first(daemons, id: str, number: int) -> threading.Thread:
    """After some frames the daemon that has the stream gets the signal."""
    def run():
        daemons[0].wait_for(lambda: home(daemons, id))
        d = home(daemons, id)
        d.wait_for(lambda: d.json(f"/v1/streams/{id}")["frames"] >= 25)
        d.process.send_signal(number)
    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_a_client_goes_on_at_another_replica(one, balanced, frames, expected, number):
    goes_on(lambda: one.stream("cam", frames, PACE), balanced[1], expected, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_packets_go_on_at_another_replica(balanced, tiny_model, frames, tmp_path, number):
    path, want = tool_video(tiny_model, masks.video(tmp_path / "clip.mp4", frames, *X264, "-bf", "3"), tmp_path)
    one = C(balanced[0], tmp_path)
    goes_on(lambda: one.stream_file("cam", path, "packets", PACE), balanced[1], want, number)


def goes_on(stream, daemons, expected, number: int) -> None:
    """Each mask is that of a stream in one daemon. A daemon that is stopped answers every frame, once; of one that is
    killed the answers to frames in flight may be missing, but not their effect."""
    ender = end_the_first(daemons, "cam", number)
    got = stream()
    ender.join()
    assert [seq for seq in got if (got[seq] != expected[seq]).any()] == []
    missing = sorted(set(range(COUNT)) - set(got))
    assert len(missing) <= (0 if number == signal.SIGTERM else CREDIT), missing
    last = home(daemons, "cam")
    assert last.json("/v1/streams/cam")["frames"] == COUNT
    assert last.metric('tv3sd_streams_moved_total{direction="in"}') == 1
