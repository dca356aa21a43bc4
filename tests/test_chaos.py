"""Some seconds of what `make chaos` does for minutes, and that it sees what it looks for."""
from __future__ import annotations

import json
import os
import subprocess

import cases
import chaos
from conftest import BUILD, HERE
from daemon import Daemon
from live import client, rgb


def test_clients_killed_at_random_leave_nothing_behind(tiny_model, tmp_path):
    result = chaos.run(tiny_model, tmp_path / "run", 8, 11)
    assert result["ok"], json.dumps(result, indent=2)
    assert result["kills"] > chaos.CLIENTS


def test_a_daemon_that_leaks_is_found_out(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(chaos, "SETTLE", 1)
    library = tmp_path / "leak.so"
    subprocess.run(["cc", "-D_GNU_SOURCE", "-fPIC", "-shared", "-o", library, os.path.join(HERE, "preload/leak.c")], check=True)
    result = chaos.run(tiny_model, tmp_path / "run", 3, 11, LD_PRELOAD=str(library),
                       ASAN_OPTIONS=chaos.ASAN + ":verify_asan_link_order=0")
    before, after = result["left_behind"]["descriptors"]
    assert not result["ok"] and after > before + chaos.CLIENTS
    if os.path.basename(BUILD) == "asan":
        assert "LeakSanitizer" in result["sanitizer"] and "leak.so" in result["sanitizer"] and result["exit_status"] != 0


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
