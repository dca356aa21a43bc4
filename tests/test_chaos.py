"""Some seconds of what `make chaos` does for minutes, and that it sees what it looks for."""
from __future__ import annotations

import io
import json
import os
import signal
import subprocess

import pytest
from PIL import Image

import cases
import chaos
from conftest import BUILD, HERE
from daemon import PATIENCE, Daemon
from live import client, rgb
from sandbox import decoder, kill


def test_clients_killed_at_random_leave_nothing_behind(tiny_model, tmp_path):
    result = chaos.run(tiny_model, tmp_path / "run", 8, 11)
    assert result["ok"], json.dumps(result, indent=2)
    assert result["kills"] > chaos.CLIENTS


@pytest.fixture
def leak(tmp_path) -> dict[str, str]:
    """The environment of a daemon that loses what LEAK says."""
    library = tmp_path / "leak.so"
    subprocess.run(["cc", "-D_GNU_SOURCE", "-fPIC", "-shared", "-o", library, os.path.join(HERE, "preload/leak.c")], check=True)
    return {"LD_PRELOAD": str(library), "ASAN_OPTIONS": chaos.ASAN + ":verify_asan_link_order=0"}


def test_a_daemon_that_leaks_is_found_out(tiny_model, tmp_path, monkeypatch, leak):
    monkeypatch.setattr(chaos, "SETTLE", 1)
    result = chaos.run(tiny_model, tmp_path / "run", 3, 11, LEAK="descriptors", **leak)
    before, after = result["left_behind"]["descriptors"]
    assert not result["ok"] and after > before + chaos.CLIENTS
    if os.path.basename(BUILD) == "asan":
        assert "LeakSanitizer" in result["sanitizer"] and "leak.so" in result["sanitizer"] and result["exit_status"] != 0


def test_memory_that_grows_is_found_out(tiny_model, tmp_path, leak):
    result = chaos.run(tiny_model, tmp_path / "run", 6, 11, LEAK="memory", **leak)
    assert result["grows"] and not result["ok"], json.dumps(result, indent=2)
    assert result["left_behind"] == {}, result["left_behind"]


def test_a_thread_that_is_left_is_found_out(tiny_model, tmp_path, leak):
    with Daemon(tiny_model, tmp_path / "s", env={**os.environ, **leak, "LEAK": "threads"}) as d:
        process = chaos.Process(d.process.pid)
        before = chaos.figures(process)
        for _ in range(8):
            assert d.get("/livez").status == 200
        d.wait_for(lambda: set(chaos.at_rest(d, process, before)) == {"threads"})


@pytest.mark.parametrize("name", chaos.ZERO_AT_REST)
def test_a_metric_that_does_not_come_back_to_zero_is_found_out(daemon, monkeypatch, name):
    """The daemon's own answer, but for one number."""
    process, metrics = chaos.Process(daemon.process.pid), chaos.metrics
    before = chaos.settled(process)

    def left() -> dict:
        return chaos.at_rest(daemon, process, before)
    daemon.wait_for(lambda: left() == {})
    monkeypatch.setattr(chaos, "metrics", lambda d: metrics(d) | {name: 1.0})
    daemon.wait_for(lambda: left() == {name: 1.0})


def test_a_frame_that_waits_for_ever_is_reported(tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "s", "--decode-timeout", PATIENCE) as d:
        process = chaos.Process(d.process.pid)
        image = io.BytesIO()
        Image.fromarray(cases.frames((64, 96), 1, 1)[0]).save(image, "PNG")
        queue = 'tv3sd_queue_depth{stage="decode"}'

        def left() -> set[str]:
            return set(chaos.at_rest(d, process, before))
        with client(d).stream("held", format="raw") as s:
            list(s.masks([image.getvalue()], end=False))
            before = chaos.figures(process)
            victim = decoder(d, "images")
            kill(victim, signal.SIGSTOP)
            s.send(image.getvalue())
            s.send(image.getvalue())  # behind the one that its decoder has
            d.wait_for(lambda: queue in left())
            kill(victim, signal.SIGCONT)
            d.wait_for(lambda: queue not in left())


def test_what_a_client_still_holds_is_reported(tiny_model, tmp_path):
    """As it would be if the daemon had forgotten to let go of it."""
    with Daemon(tiny_model, tmp_path / "s") as d:
        process = chaos.Process(d.process.pid)
        before = chaos.figures(process)  # no request was made yet

        def left() -> set[str]:
            return set(chaos.at_rest(d, process, before))
        frame = cases.frames((64, 96), 1, 1)[0]
        with client(d).stream("held", format="raw") as s:
            list(s.masks([rgb(frame)], end=False))
            before["threads"] = process.threads()  # the first frame starts some
            d.wait_for(lambda: left() == {'tv3sd_connections{protocol="ws"}', 'tv3sd_streams{state="active"}', "streams",
                                          "tv3sd_state_bytes", "descriptors"})
        d.wait_for(lambda: left() == {'tv3sd_streams{state="idle"}', "streams", "tv3sd_state_bytes"})
        client(d).delete_stream("held")
        d.wait_for(lambda: left() == set())
        upload = d.connect()
        upload.putrequest("POST", "/v1/videos")
        upload.putheader("Content-Length", "10")
        upload.endheaders(b"12345")
        d.wait_for(lambda: left() == {"http connections", 'tv3sd_jobs{state="queued"}', "descriptors"})
        upload.close()
        d.wait_for(lambda: left() == set())
        os.mkdir(os.path.join(d.spool, "forgotten"))
        d.wait_for(lambda: left() == {"files"})
