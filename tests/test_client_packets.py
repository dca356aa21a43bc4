"""Packets out of a container, sent without being decoded: the masks are those of the tool, also after a connection that
breaks. FFmpeg's own encoders and muxers make the files."""
from __future__ import annotations

import os
import subprocess
import threading

import numpy as np
import pytest

import masks
from conftest import TV3S
from daemon import Daemon
from test_clients import COUNT, PICTURE, SIZE, C, assert_masks, cut_twice, proxy  # noqa: F401

SEED = 11
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-x264-params", "log-level=none:keyint=20")
X265 = ("-c:v", "libx265", "-pix_fmt", "yuv420p", "-x265-params", "log-level=none:keyint=20:pools=1")
FILES = {  # what the C client takes out of a container without decoding it
    "h264.mp4": (*X264, "-bf", "0"),
    "h264-reordered.mp4": (*X264, "-bf", "3"),
    "h264-reordered.ts": (*X264, "-bf", "3"),
    "h264-cropped.mp4": (*X264, "-vf", "pad=100:64", "-x264-params", "log-level=none:crop-rect=2,0,2,0"),
    "hevc.mkv": (*X265, "-bf", "2"),
    "vp8.webm": ("-c:v", "libvpx", "-b:v", "400k", "-deadline", "realtime", "-g", "20"),
    "vp8-hidden.webm": ("-c:v", "libvpx", "-b:v", "200k", "-deadline", "good", "-cpu-used", "5", "-g", "20", "-auto-alt-ref",
                        "1", "-lag-in-frames", "16", "-arnr-maxframes", "7"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-b:v", "400k", "-deadline", "realtime", "-cpu-used", "8", "-g", "20"),
    "av1.mkv": ("-c:v", "libaom-av1", "-cpu-used", "8", "-b:v", "400k", "-usage", "realtime", "-g", "20"),
    "jpeg.avi": ("-c:v", "mjpeg", "-q:v", "2"),
}


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory, proxy):
    with Daemon(tiny_model, tmp_path_factory.mktemp("packets") / "spool", "--ws-url", f"ws://127.0.0.1:{proxy.port}") as d:
        proxy.target = d.ws_port
        yield d


@pytest.fixture(scope="module")
def packet_files(tiny_model, frames, tmp_path_factory):
    """name of FILES -> (path, the masks that the tool gives)"""
    made = {}

    def make(which: str):
        if which not in made:
            folder = tmp_path_factory.mktemp(which)
            encoder = FILES[which]
            if "-auto-alt-ref" in encoder:  # which takes a look at the whole
                log = "-passlogfile", folder / "log"
                masks.video(folder / "first.webm", frames, *encoder, "-pass", "1", *log)
                encoder = (*encoder, "-pass", "2", *log)
            made[which] = tool_video(tiny_model, masks.video(folder / which, frames, *encoder), folder)
        return made[which]
    return make


def tool_video(model, path: str, folder) -> tuple[str, np.ndarray]:
    subprocess.run([TV3S, "segment", model, path, "-o", folder / "masks.raw", "--format", "raw"], check=True,
                   capture_output=True)
    return path, np.fromfile(folder / "masks.raw", np.uint8).reshape(-1, *SIZE)


@pytest.mark.parametrize("which", FILES)
def test_packets_of_a_file_give_what_the_tool_gives(daemon, packet_files, tmp_path, which):
    path, want = packet_files(which)
    packets = masks.probe(path, "-show_entries", "packet=size").split()
    assert len(want) == COUNT and (len(packets) > COUNT) == ("hidden" in which)
    assert_masks(C(daemon, tmp_path).stream_file(which, path, "packets"), want)


def sent(path: str, count: int) -> int:
    """Bytes that so many of its packets are on the wire, about."""
    sizes = masks.probe(path, "-show_entries", "packet=size").split()
    return sum(int(s.strip(",")) + 46 for s in sizes[:count]) + 300


@pytest.mark.parametrize("which", ["h264-reordered.ts", "vp8-hidden.webm", "vp9.webm", "jpeg.avi"])
def test_packets_go_on_after_a_connection_that_breaks(daemon, proxy, packet_files, tmp_path, which):
    """What a new decoder cannot begin with is sent as pictures."""
    path, want = packet_files(which)
    second = sent(path, 12) if which == "jpeg.avi" else 6 * PICTURE   # before the second key frame
    with cut_twice(daemon, proxy, "cut-" + which, sent(path, 8), second):
        got = C(daemon, tmp_path).stream_file("cut-" + which, path, "packets")
    assert len(got) >= COUNT - 2 * 8 and COUNT - 1 in got
    assert [seq for seq in got if (got[seq] != want[seq]).any()] == []


@pytest.mark.parametrize("which", ["h264-reordered.mp4", "av1.mkv", "jpeg.avi"])
def test_packets_go_on_in_another_process(daemon, proxy, packet_files, tmp_path, which):
    """Which is killed, and begun again with --resume. All masks that were written are the tool's."""
    path, want = packet_files(which)
    id, one, killed = "killed-" + which, C(daemon, tmp_path), threading.Event()
    proxy.after(sent(path, 45), killed.wait)
    begun = one.start(*one.stream_words(id, path))
    daemon.wait_for(lambda: daemon.get(f"/v1/streams/{id}").status == 200 and
                    daemon.json(f"/v1/streams/{id}")["frames"] >= 27)
    begun.kill()
    begun.wait()
    killed.set()
    last = one.stream_file(id, path, "packets", "--takeover")
    first = daemon.json(f"/v1/streams/{id}")
    assert (first["frames"], first["last_seq"]) == (COUNT, COUNT - 1)
    assert min(last) >= 27
    for seq, got in one.written(id).items():
        np.testing.assert_array_equal(got, want[seq], str(seq))


@pytest.mark.parametrize("which, encoder, container, why", [
    ("turned.mp4", X264, ("-metadata:s:v", "rotate=180"), "turns"),
    ("colours.mp4", X264, ("-colorspace", "bt709", "-movflags", "write_colr"), "colours"),
    ("mpeg4.mp4", ("-c:v", "mpeg4", "-q:v", "3"), (), "codec"),
    ("fields.mp4", (*X264, "-flags", "+ildct+ilme"), (), "fields")])
def test_packets_that_would_give_other_pictures_are_decoded(daemon, tiny_model, frames, tmp_path, which, encoder,
                                                            container, why):
    path = str(tmp_path / which)
    masks.ffmpeg("-i", masks.video(tmp_path / "encoded.mp4", frames[:8], *encoder), "-c", "copy", *container, path)
    one = C(daemon, tmp_path)
    said = one.run(*one.stream_words("on-" + which, path), "--packets", "on", status=1).stderr
    assert "cannot be sent as packets" in said and why in said
    _, want = tool_video(tiny_model, path, tmp_path)
    assert_masks(one.stream_file("auto-" + which, path, "pictures"), want)


def test_a_file_that_is_cut_off_is_reported_once(daemon, frames, tmp_path):
    """The client has read to its end before it knows that the packets are not to be sent."""
    encoded = masks.video(tmp_path / "encoded.mp4", frames[:8], *X264, "-bf", "3")
    path = tmp_path / "cut.mp4"
    masks.ffmpeg("-i", encoded, "-c", "copy", "-colorspace", "bt709", "-movflags", "write_colr+faststart", path)
    second = int(masks.probe(path, "-show_entries", "packet=pos").split()[1])
    os.truncate(path, second)
    one = C(daemon, tmp_path)
    said = one.run(*one.stream_words("cut", path)).stderr
    assert said.count("cut off") == 1, said
