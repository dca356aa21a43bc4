"""What goes up to a GPU as NV12 gives the labels of its RGB24: uploads, packets, JPEGs and raw frames, with decoders in
processes of their own. Their RGB24 is that of FFmpeg's own tool.

The GPU is the stand-in of tests/cuda_host."""
from __future__ import annotations

import io
import subprocess

import numpy as np
import pytest
from PIL import Image

import cases
import masks
from live import client, rgb
from test_device import on_gpu
from test_videos import X264
from tv3s_client import Frame

SIZE, COUNT = (64, 96), 5


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, tiny_model):
    with on_gpu(tiny_model, tmp_path_factory.mktemp("gpu") / "spool") as d:
        yield d


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return cases.frames(SIZE, COUNT, 33)


def labels(d, name: str, frames, **options) -> list[bytes]:
    with client(d).stream(name, format="raw", **options) as s:
        for frame in frames:
            s.send(frame)
        s.end()
        return [bytes(a.data) for a in s.events()]


def given(d) -> tuple[float, float]:
    """Frames so far: RGB24, NV12."""
    return tuple(d.metric(f'tv3sd_frames_given_total{{layout="{layout}",place="host"}}') for layout in ("rgb24", "nv12"))


def from_nv12(data: bytes) -> np.ndarray:
    """BT.709, limited range."""
    h, w = SIZE
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "nv12", "-s", f"{w}x{h}", "-i", "-", "-vf",
         "scale=in_color_matrix=bt709:in_range=tv:flags=bilinear+accurate_rnd+full_chroma_int", "-f", "rawvideo",
         "-pix_fmt", "rgb24", "-"], input=data, check=True, capture_output=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, h, w, 3)


def test_raw_frames(daemon):
    h, w = SIZE
    noise = np.random.default_rng(5).integers(0, 256, (COUNT, h * w * 3 // 2), np.uint8)
    before = given(daemon)
    wanted = labels(daemon, "raw-rgb", map(rgb, from_nv12(noise.tobytes())))
    assert len(set(wanted)) == COUNT
    assert given(daemon) == (before[0] + COUNT, before[1])
    assert labels(daemon, "raw-nv12", [Frame.nv12(n.tobytes(), w, h) for n in noise]) == wanted
    assert given(daemon) == (before[0] + COUNT, before[1] + COUNT)


def test_uploads(daemon, tmp_path, frames):
    clip = masks.video(tmp_path / "clip.mp4", frames, *X264)
    wanted = labels(daemon, "clip-rgb", map(rgb, masks.decoded(clip, "rgb24", (*SIZE, 3))))
    assert len(wanted) == COUNT
    before = given(daemon)
    assert daemon.get(daemon.upload(clip, "?format=raw")["masks"]).body == b"".join(wanted)
    assert given(daemon) == (before[0], before[1] + COUNT)


def test_packets(daemon, tmp_path, frames):
    """One frame a file, each an access unit of its own."""
    units = []
    for i, f in enumerate(frames):
        unit = tmp_path / f"{i}.h264"
        masks.video(unit, f[None], *X264)
        units.append(unit)
    pixels = [masks.decoded(str(u), "rgb24", (*SIZE, 3))[0] for u in units]
    packets = [Frame.packet(u.read_bytes(), "h264", key_frame=True) for u in units]
    before = given(daemon)
    assert labels(daemon, "packets", packets) == labels(daemon, "packets-rgb", map(rgb, pixels))
    assert given(daemon) == (before[0] + COUNT, before[1] + COUNT)


def test_jpegs_and_overlays(daemon, tmp_path, frames):
    files, pixels = [], []
    for i, f in enumerate(frames):
        file = io.BytesIO()
        Image.fromarray(f).save(file, "JPEG", subsampling="4:2:0")
        (tmp_path / f"{i}.jpg").write_bytes(file.getvalue())
        files.append(file.getvalue())
        pixels.append(masks.decoded(str(tmp_path / f"{i}.jpg"), "rgb24", (*SIZE, 3))[0])
    before = given(daemon)
    assert labels(daemon, "jpegs", map(Frame.image, files)) == labels(daemon, "jpegs-rgb", map(rgb, pixels))
    assert given(daemon) == (before[0] + COUNT, before[1] + COUNT)
    over = daemon.request("POST", "/v1/segment?format=overlay", files[0])
    assert over.status == 200 and over.body == daemon.request(
        "POST", "/v1/segment?format=overlay", to_png(pixels[0])).body
    assert given(daemon) == (before[0] + COUNT + 2, before[1] + COUNT)


def to_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
