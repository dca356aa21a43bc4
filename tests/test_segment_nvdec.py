"""`tv3s segment --device cuda` with the video decoded on the GPU: the masks are byte for byte those of `--decoder cpu`, and
also where the device does not have the video or fails. GPU and driver are stand-ins (tests/cuda_host)."""
from __future__ import annotations

import json
import subprocess

import pytest

import cases
import masks
from nvdec import CUDA_HOST_TV3S, program_with_driver

X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "6", "-bf", "2", "-preset", "ultrafast", "-x264opts", "bframes=2")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p")
COUNT = 12                                                              # more than there are slots
UNKNOWN = "CUDA_ERROR_UNKNOWN: unknown error"


def run(program, model, file, out, *options, **kw) -> tuple[dict, str]:
    done = subprocess.run([program, "segment", model, file, "-o", out, "--device", "cuda", "--json", *options],
                          capture_output=True, text=True, **kw)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def video(path, size=(48, 64), codec=X264, count=COUNT, seed=1) -> str:
    return masks.video(path, cases.frames(size, count, seed), *codec)


def same(program, model, file, folder) -> tuple[dict, str]:
    """Decoded as it may be, when the masks are those of the CPU's decoder."""
    host, _ = run(CUDA_HOST_TV3S, model, file, folder / "host.raw", "--decoder", "cpu")
    assert (host["decoder"], host["decoder_why"]) == ("cpu", "as --decoder says")
    got, log = run(program, model, file, folder / "got.raw")
    assert got["frames"] == host["frames"] and got["corrupt"] == host["corrupt"]
    data = (folder / "got.raw").read_bytes()
    assert data == (folder / "host.raw").read_bytes() and len(set(data)) > 1
    return got, log


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return video(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module")
def host(tmp_path_factory, tiny_model, clip) -> bytes:
    out = tmp_path_factory.mktemp("host") / "host.raw"
    run(CUDA_HOST_TV3S, tiny_model, clip, out, "--decoder", "cpu")
    return out.read_bytes()


@pytest.mark.parametrize("name, size, codec, count", [
    ("h264.mp4", (50, 66), X264, COUNT), ("vp9.webm", (130, 128), VP9, 3), ("mjpeg.avi", (64, 96), ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"), 4)])
def test_masks_are_those_of_the_cpus_decoder(tmp_path, tiny_model, name, size, codec, count):
    got, log = same(CUDA_HOST_TV3S, tiny_model, video(tmp_path / name, size, codec, count), tmp_path)
    assert got["decoder"] == "nvdec" and got["decoder_why"] is None
    assert log.endswith(", 0 corrupt, decoded by nvdec\n")


def test_batches_and_sizes_that_change(tmp_path, tiny_model):
    parts = [video(tmp_path / f"{i}.ts", size, X264, 5, i) for i, size in enumerate([(48, 64), (64, 96), (32, 48)])]
    (tmp_path / "all.ts").write_bytes(b"".join(open(p, "rb").read() for p in parts))
    assert same(CUDA_HOST_TV3S, tiny_model, tmp_path / "all.ts", tmp_path)[0]["decoder"] == "nvdec"
    run(CUDA_HOST_TV3S, tiny_model, tmp_path / "all.ts", tmp_path / "four.raw", "--batch", "4")
    assert (tmp_path / "four.raw").read_bytes() == (tmp_path / "host.raw").read_bytes()


def test_turned_frames_come_to_the_host(tmp_path, tiny_model, clip):
    masks.ffmpeg("-i", clip, "-c", "copy", "-metadata:s:v", "rotate=90", tmp_path / "turned.mp4")
    assert same(CUDA_HOST_TV3S, tiny_model, tmp_path / "turned.mp4", tmp_path)[0]["decoder"] == "nvdec"


@pytest.mark.parametrize("name, size, codec, why", [
    ("10bit.mp4", (48, 64), (*X264[:2], "-pix_fmt", "yuv420p10"), "cuda:0: pictures are yuv420p10le, not 4:2:0 of 8 bits"),
    ("odd.webm", (131, 129), VP9, "cuda:0: pictures have odd sides"),
])
def test_what_the_gpu_does_not_have_the_cpu_decodes(tmp_path, tiny_model, name, size, codec, why):
    got, log = same(CUDA_HOST_TV3S, tiny_model, video(tmp_path / name, size, codec, 2), tmp_path)
    assert (got["decoder"], got["decoder_why"]) == ("cpu", why) and log.endswith(f", decoded by cpu ({why})\n")
    assert "warning" not in log


@pytest.mark.parametrize("faults, why", [
    ({"without": ["libcuda.so.1"]}, "Cannot load libcuda.so.1"),
    ({"without": ["libnvcuvid.so.1"]}, "Cannot load libnvcuvid.so.1"),
    ({"codecs": 0}, "Hardware is lacking required capabilities"),
    ({"height": 47}, "Video height 48 not within range from 16 to 47"),
    ({"memory": 1}, "cuvidCreateDecoder failed -> CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    ({"decode": 0}, f"cuvidDecodePicture failed -> {UNKNOWN}"),
])
def test_without_a_decoder_there_the_cpu_decodes(tmp_path, tiny_model, clip, host, faults, why):
    program = program_with_driver(CUDA_HOST_TV3S, tmp_path, **faults)
    got, log = run(program, tiny_model, clip, tmp_path / "got.raw")
    assert (got["decoder"], got["decoder_why"]) == ("cpu", f"cuda:0: {why}") and "warning" not in log
    assert (tmp_path / "got.raw").read_bytes() == host


@pytest.mark.parametrize("fault, number", [("decode", 7), ("map", 1), ("map", 11)])
def test_a_decoder_that_fails_later_is_taken_over_from(tmp_path, tiny_model, clip, host, fault, number):
    program = program_with_driver(CUDA_HOST_TV3S, tmp_path, **{fault: number})
    got, log = run(program, tiny_model, clip, tmp_path / "got.raw")
    assert got["decoder"] == "nvdec, then cpu" and got["decoder_why"].endswith(UNKNOWN)
    assert "warning: the video decoder of the GPU failed; the CPU goes on" in log and got["frames"] == COUNT
    assert (tmp_path / "got.raw").read_bytes() == host


def test_what_can_be_read_once_only_and_overlays_are_the_cpus(tmp_path, tiny_model, clip, host):
    with open(video(tmp_path / "clip.ts"), "rb") as f:
        got, _ = run(CUDA_HOST_TV3S, tiny_model, "-", tmp_path / "piped.raw", stdin=f)
    assert (got["decoder"], got["decoder_why"]) == ("cpu", "the input can be read only once")
    got, _ = run(CUDA_HOST_TV3S, tiny_model, clip, tmp_path / "over.mp4")
    assert (got["decoder"], got["decoder_why"]) == ("cpu", "overlays are drawn there")


def test_another_decoder_is_refused(tmp_path, tiny_model, clip):
    done = subprocess.run([CUDA_HOST_TV3S, "segment", tiny_model, clip, "-o", tmp_path / "o.raw", "--decoder", "gpu"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and "--decoder cannot be 'gpu', but auto or cpu" in done.stderr
