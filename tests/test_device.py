"""A GPU that fails while the daemon runs: what clients are told, how the process ends, what the next one goes on with.

The GPU is the stand-in of tests/cuda_host, which at SIGUSR1 fails for good, as after a kernel's fault."""
from __future__ import annotations

import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cases
import masks
from conftest import make_tiny_model
from daemon import CUDA_HOST_TV3SD, PATIENCE, Daemon
from live import client, rgb
from replicas import Redis
from test_durable import arriving, wait_done
from test_ws import png
from tv3s_client import Answer, ConnectionLost, Dropped

FRAMES = 12
REASON = "the GPU failed"


@pytest.fixture(scope="module")
def frames():
    return cases.frames((64, 96), FRAMES, 21)


def on_gpu(model, spool, *flags, memory=None) -> Daemon:
    env = dict(os.environ, CUDA_HOST_MEMORY=str(memory)) if memory else None
    return Daemon(model, spool, "--device", "cuda", *(flags or ("--room-size", "")), "--job-checkpoint", "0", env=env,
                  program=CUDA_HOST_TV3SD)


def post(d: Daemon, stream: str, frame):
    return d.request("POST", f"/v1/streams/{stream}/frames", png(frame))


def fail(d: Daemon) -> None:
    d.process.send_signal(signal.SIGUSR1)
    d.wait_log("the stand-in fails")


def assert_refused(answer) -> None:
    """A frame that was there when the device failed, or came after that."""
    kind = answer.problem()
    assert (answer.status, kind) in [(500, "device"), (503, "overloaded")] and REASON in answer.json()["detail"]


def assert_ended(d: Daemon) -> None:
    assert d.process.wait(PATIENCE) == 1, d.log()
    assert "event=device_failed" in d.log() and f'error="model \'tiny\': {REASON}' in d.log().splitlines()[-1]


def silent_connection(d: Daemon, stream: str) -> socket.socket:
    """A WebSocket whose client reads nothing: it is waited for before the daemon ends, for a while."""
    s = socket.create_connection(("127.0.0.1", d.ws_port), timeout=PATIENCE)
    s.sendall(f"GET /v1/streams/{stream}/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
              "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
              "Sec-WebSocket-Protocol: tv3s.v1\r\n\r\n".encode())
    assert s.recv(4096).startswith(b"HTTP/1.1 101")
    return s


def test_clients_are_told_and_jobs_go_on_with_the_next_process(tmp_path, tiny_model, frames):
    """A job has begun before its upload is whole, and has frames left: the engine is held while the rest comes."""
    noise = np.random.default_rng(3).integers(0, 255, (40, 64, 96, 3), np.uint8)   # more than 64 KiB
    clip = masks.video(tmp_path / "clip.ts", noise, "-c:v", "mpeg2video", "-q:v", "2", "-bf", "0")
    data = open(clip, "rb").read()
    cut = len(data) * 3 // 4
    with on_gpu(tiny_model, tmp_path / "spool") as d:
        whole = d.upload(clip, "?format=raw")
        wanted = d.get(whole["masks"]).body
        with silent_connection(d, "silent"), client(d).stream("cam", format="raw") as s:
            events, told = s.events(), []
            s.send(rgb(frames[0]))
            assert isinstance(next(events), Answer)
            assert d.request("PUT", "/v1/streams/posted").status == 201
            with arriving(d, data[:cut], len(data) - cut) as upload:
                d.wait_for(lambda: len(d.json("/v1/videos")["videos"]) == 2)
                job = d.json("/v1/videos")["videos"][0]["id"]
                wait_done(d, job, 1)
                d.process.send_signal(signal.SIGUSR2)
                upload.sendall(data[cut:])
                assert upload.recv(100).startswith(b"HTTP/1.1 202 ")
            d.wait_log("the stand-in is waited for")
            fail(d)
            d.process.send_signal(signal.SIGUSR2)
            while (answer := post(d, "posted", frames[0])).status == 200:
                pass
            assert_refused(answer)
            not_ready = d.get("/readyz")
            assert not_ready.status == 503 and REASON in not_ready.json()["detail"]
            assert_refused(d.request("POST", "/v1/videos", b"x" * 1000))
            with pytest.raises(ConnectionLost) as lost:
                s.send(rgb(frames[1]))
                told.extend(events)
            assert all(e.reason == "drain" if isinstance(e, Dropped) else REASON in e.problem["detail"] for e in told)
            assert lost.value.bye == "device" and lost.value.code == 1011
        assert_ended(d)
        assert f"event=job_waits job={job} " in d.log()
    with on_gpu(tiny_model, tmp_path / "spool") as d:
        ended = d.finish(job)
        assert ended["state"] == "succeeded" and d.get(ended["masks"]).body == wanted
        with client(d).stream("cam", format="raw") as s:
            assert not s.hello["resumed"]


def test_a_probe_finds_out_where_nothing_runs(tmp_path, tiny_model):
    with on_gpu(tiny_model, tmp_path / "spool") as d:
        fail(d)
        not_ready = d.get("/readyz")
        assert not_ready.status == 503 and REASON in not_ready.json()["detail"]
        assert_ended(d)


def test_an_export_finds_out(tmp_path, tiny_model, frames):
    with on_gpu(tiny_model, tmp_path / "spool") as d:
        assert d.request("PUT", "/v1/streams/kept").status == 201
        assert post(d, "kept", frames[0]).status == 200
        fail(d)
        answer = d.get("/v1/streams/kept/state")
        assert answer.status == 500 and answer.problem() == "device" and REASON in answer.json()["detail"]
        assert_ended(d)


@pytest.mark.parametrize("mode", ["stream", "clip"])
def test_another_replica_goes_on_from_what_was_stored(tmp_path, tiny_model, frames, mode):
    """The lease, of ten minutes, is given up, and what is stored is of a frame that was answered."""
    with Redis() as redis:
        flags = (*redis.flags_of_daemon(), "--stream-lease", "600", "--snapshot-frames", "1")
        with on_gpu(tiny_model, tmp_path / "a", "--room-size", "", *flags) as a, \
                Daemon(tiny_model, tmp_path / "b", *flags) as b:
            assert a.request("PUT", "/v1/streams/cam?mode=" + mode).status == 201
            for i in range(3):
                assert post(a, "cam", frames[i]).headers["X-Tv3s-Seq"] == str(i)
            a.wait_for(lambda: redis.meta("cam").get("seq") == 2)
            fail(a)
            assert_refused(post(a, "cam", frames[3]))
            with client(b).stream("cam") as s:
                assert s.resumed and s.last_seq == 2 and s.hello["mode"] == mode
            assert_ended(a)


# ---- two batches under way ---------------------------------------------------------------------------------
def test_batches_that_overlap_are_those_of_one_after_the_other(tmp_path, tiny_model, frames):
    """Three streams that send ahead, with a reset in the middle, against one that waits for each answer."""
    def masks_of(d, name, credit):
        with client(d).stream(name, format="raw", credit=credit) as s:
            for i, frame in enumerate(frames):
                if i == FRAMES // 2:
                    s.reset()
                s.send(rgb(frame))
            s.end()
            answers = list(s.events())
        assert [a.from_zero for a in answers] == [i in (0, FRAMES // 2) for i in range(FRAMES)]
        return [(a.seq, bytes(a.data)) for a in answers]

    with on_gpu(tiny_model, tmp_path / "spool") as d, ThreadPoolExecutor() as pool:
        alone = masks_of(d, "alone", 1)
        assert d.metric("tv3sd_batches_ahead_total") == 0
        for each in pool.map(lambda name: masks_of(d, name, 8), "abc"):
            assert each == alone
        assert d.metric("tv3sd_batches_ahead_total") > 0


# ---- memory -----------------------------------------------------------------------------------------------
SMALL = ("--room-size", "64x48", "--batch-max", "2")


def state_room(d: Daemon) -> dict[str, int]:
    return {m[1]: int(m[2]) for m in re.finditer(r"event=state_room model=(\S+) bytes=(\d+)", d.log())}


def test_states_take_what_a_small_card_has_left(tmp_path, tiny_model, frames):
    with on_gpu(tiny_model, tmp_path / "spool", *SMALL, memory=256 << 20) as d:
        room = state_room(d)["tiny"]
        assert 64 << 20 < room < 256 << 20
        assert d.request("PUT", "/v1/streams/a").status == 201 and post(d, "a", frames[0]).status == 200


def test_a_share_that_does_not_fit_is_refused_with_what_would(tmp_path, tiny_model):
    with pytest.raises(AssertionError):
        on_gpu(tiny_model, tmp_path / "spool", *SMALL, "--max-state-bytes", "1G", memory=256 << 20)
    said = re.search(r"hidden states of 1024 MB do not fit beside weights and batches, (\d+) MB would "
                     r"\(max_state_bytes\)", (tmp_path / "spool.log").read_text())
    with on_gpu(tiny_model, tmp_path / "spool", *SMALL, "--max-state-bytes", said[1] + "M", memory=256 << 20) as d:
        assert state_room(d)["tiny"] == int(said[1]) << 20


def test_models_share_the_room_by_what_their_streams_need(tmp_path, tiny_model):
    wide = make_tiny_model(tmp_path, embed=64)
    with on_gpu(tiny_model, tmp_path / "spool", "--model", "wide=" + wide, *SMALL, "--max-state-bytes", "96M",
                memory=512 << 20) as d:
        assert state_room(d) == {"tiny": 32 << 20, "wide": 64 << 20}
