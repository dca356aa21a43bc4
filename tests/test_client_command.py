"""What tv3s-client says, and what it leaves behind."""
from __future__ import annotations

import contextlib
import json
import os
import pty

import pytest

import masks
from daemon import PATIENCE, Daemon
from test_clients import C, proxy  # noqa: F401

SIZE, COUNT, SEED = (64, 96), 6, 11  # of the frames: height and width, how many, which


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory, proxy):  # noqa: F811
    with Daemon(tiny_model, tmp_path_factory.mktemp("command") / "spool", "--ws-url", f"ws://127.0.0.1:{proxy.port}") as d:
        proxy.target = d.ws_port
        yield d


@pytest.fixture
def command(daemon, tmp_path) -> C:
    return C(daemon, tmp_path)


@pytest.fixture
def clip(tmp_path, frames) -> str:
    return masks.video(tmp_path / "clip.mp4", frames, "-c:v", "libx264", "-pix_fmt", "yuv420p")


def test_a_stream_that_does_not_begin_leaves_no_folder(command, daemon, clip, tmp_path):
    out = tmp_path / "masks"
    for words in ([tmp_path / "nofile.mp4"], [clip, "--model", "nobody"], [clip, "--url", "http://127.0.0.1:1"]):
        said = command.run("stream", *words, "--id", "none", "-o", out, status=1).stderr
        assert said.startswith("tv3s-client stream: ") and not out.exists(), said
    assert daemon.get("/v1/streams/none").status == 404
    command.run("stream", clip, "-o", out)
    assert sorted(os.listdir(out)) == [f"{n:06d}.png" for n in range(COUNT)]


def test_what_cannot_be_read_says_why(command, tmp_path):
    assert "cannot read the file: Is a directory\n" in command.run("upload", tmp_path, "-o", tmp_path / "o.zip", status=1).stderr


def test_what_was_meant_by_a_misspelt_word_is_guessed(command):
    assert "did you mean 'upload'?" in command.run("uplaod", "x", status=2).stderr
    assert "did you mean --takeover?" in command.run("stream", "x", "--take-over", status=2).stderr
    assert "did you mean" not in command.run("stream", "x", "--colour", status=2).stderr


def test_at_a_terminal_what_went_wrong_has_a_line_of_its_own(command, tmp_path):
    """Behind the progress, which stands at its line's end."""
    (tmp_path / "letter").write_text("Dear daemon,\n" * 100)
    ours, theirs = pty.openpty()
    done = command.start("upload", tmp_path / "letter", "-o", tmp_path / "none", stderr=theirs)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the terminal's end
        while part := os.read(ours, 4096):
            said += part
    os.close(ours)
    assert done.wait(PATIENCE) == 1
    *progress, error, rest = said.decode().split("\r\n")
    assert "frames labelled: 0" in progress[-1], said
    assert error.startswith("tv3s-client upload: ") and "neither a video nor an image" in error and rest == ""


@pytest.mark.parametrize("packets", ["on", "off"])
def test_a_connection_that_breaks_before_the_first_frame(command, proxy, clip, tmp_path, packets):  # noqa: F811
    proxy.requests_alone = 2
    said = command.run("stream", clip, "-o", tmp_path / "masks", "--packets", packets).stderr
    assert said.splitlines() == ["the connection is back; no frame had been labelled"] * 2
    assert len(os.listdir(tmp_path / "masks")) == COUNT


def test_a_connection_that_breaks_says_which_frame_was_the_last(command, proxy, clip, tmp_path):  # noqa: F811
    command.run("stream", clip, "--id", "after", "-o", tmp_path / "masks")
    proxy.requests_alone = 1
    said = command.run("stream", clip, "--id", "after", "-o", tmp_path / "masks").stderr
    assert said.splitlines() == [f"the connection is back; the last frame labelled is {COUNT - 1}"]
    assert len(os.listdir(tmp_path / "masks")) == 2 * COUNT
    proxy.requests_alone = 1
    said = command.run("stream", clip, "--id", "after", "-o", tmp_path / "masks", "--json")
    events = [json.loads(line) for line in said.stdout.splitlines()]
    assert events[0] == {"event": "connected", "seq": 2 * COUNT - 1, "reason": ""} and not said.stderr
