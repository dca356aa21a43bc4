"""`make demo`, as a newcomer runs it, but without a terminal: it ends by itself."""
from __future__ import annotations

import os
import pty
import re
import socket
import subprocess

import pytest

import masks
from conftest import BUILD, HERE
from daemon import free_ports

ROOT = os.path.join(HERE, "..")
CLIP = os.path.join(ROOT, "models/street.mp4")


def probe(video: str) -> dict:
    """Decodes all of it."""
    text = subprocess.run(["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v", "-show_entries",
                           "stream=nb_read_frames,width,height,codec_name", "-of", "default=noprint_wrappers=1", video],
                          check=True, capture_output=True, text=True)
    assert text.stderr == ""
    return dict(line.split("=") for line in text.stdout.split())


@pytest.fixture
def port():
    """An HTTP port that is taken, while those ten further on are free."""
    port = free_ports(0, 10, 11)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield port


def test_demo_shows_the_whole_job_on_a_free_port(port):
    env = {**os.environ, "TV3SD_HTTP_PORT": "1", "http_proxy": "http://127.0.0.1:1"}  # a reader's own settings
    run = subprocess.run(["make", "demo", f"DEMO_PORT={port}", f"BUILD={BUILD}"], cwd=ROOT, env=env,
                         stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    said = run.stdout
    assert f"Port {port} or {port + 1} is taken by another program: using {port + 10}." in said
    assert f"http://127.0.0.1:{port + 10}/" in said
    named = {name: re.search(rf"^ *{name} +(\S+)", said, re.M)[1] for name in ("masks", "overlay")}
    want = probe(CLIP)
    count = int(want["nb_read_frames"])
    assert said.count(f"labelled {count} of {count} frames") == 2
    labels = masks.zipped(os.path.join(ROOT, named["masks"]), [])
    assert len(labels) == count and labels[0].shape == (int(want["height"]), int(want["width"]))
    got = probe(os.path.join(ROOT, named["overlay"]))
    assert got == want
    assert not answers(port + 10)


def answers(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def test_at_a_terminal_the_daemon_stays_until_ctrl_c(port):
    """A second demo says so, and leaves the first alone."""
    ours, theirs = pty.openpty()
    run = subprocess.Popen(["setsid", "--ctty", "make", "demo", f"DEMO_PORT={port}", f"BUILD={BUILD}"], cwd=ROOT,
                           stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while b"until you press Ctrl-C" not in said:
        said += os.read(ours, 4096)
    assert answers(port + 10) and b"labelled 150 of 150 frames" in said
    second = subprocess.run(["make", "demo", f"DEMO_PORT={port}", f"BUILD={BUILD}"], cwd=ROOT, stdin=subprocess.DEVNULL,
                            capture_output=True, text=True)
    assert second.returncode != 0 and "demo: one runs here already: end it first, with Ctrl-C" in second.stderr
    assert "event=" not in second.stderr and answers(port + 10)
    os.write(ours, b"\x03")
    run.wait(60)
    os.close(ours)
    assert not answers(port + 10)
