"""Uploads decoded by a GPU's own decoder, in the sandbox: masks are those of the CPU's decoder byte for byte, whatever happens
to the GPU's; and what is told of it.

The GPU is the stand-in of tests/cuda_host; its decoder is FFmpeg's NVDEC code on a stand-in for NVIDIA's driver."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import numpy as np
import pytest

import cases
import masks
import power
from conftest import SANITIZED
from daemon import CUDA_HOST_TV3SD, PATIENCE, Daemon
from nvdec import CUDA_HOST_TV3S, program_with_driver
from sandbox import alive, decoder, decoders, kill
from test_durable import kept
from test_videos import ENDING, upload_slowly

SIZE, COUNT, FEW = (32, 48), 20, 7
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "8", "-bf", "2")
TRIAL = 12   # frames of the clip by which the decoder is tried
ARRIVING = 0.7   # of an upload, when something happens in the middle
TIMEOUT = 10 if SANITIZED else 2


def with_driver(model, tmp_path, *flags, without=(), devices=1, name="d", **faults) -> Daemon:
    """A daemon whose driver fails so."""
    folder = tmp_path / ("program-" + name)
    folder.mkdir(exist_ok=True)
    program = program_with_driver(CUDA_HOST_TV3SD, folder, without=without, **faults)
    return Daemon(model, tmp_path / name, "--device", "cuda:all", "--room-size", "", *flags,
                  env=dict(os.environ, CUDA_HOST_DEVICES=str(devices)), program=program)


def tried(d: Daemon, device=0) -> str:
    """What came of the trial at the start: "nvdec", or why not."""
    found = d.wait_log(fr'event=video_decoder on=(\w+) device=cuda:{device}(?: why=(?:"(.*)"|(.*)))?\n')
    return found[2] or found[3] or found[1]


def decoded(d: Daemon) -> tuple[float, float]:
    return tuple(d.metric(f'tv3sd_decoded_frames_total{{decoder="{place}"}}') for place in ("nvdec", "cpu"))


def failed(d: Daemon) -> float:
    return d.metric("tv3sd_video_decoder_failed_total")


def memories(d: Daemon) -> int:
    """Of videos' pictures, that the daemon has."""
    with open(f"/proc/{d.process.pid}/maps") as f:
        return sum("/memfd:memory of the stand-in" in line for line in f)


def result(d: Daemon, job: dict) -> bytes:
    assert job["state"] == "succeeded", (job, d.log()[-4000:])
    return d.get(job["masks"]).body


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return masks.video(tmp_path_factory.mktemp("clip") / "clip.mkv", cases.frames(SIZE, COUNT, 11), *X264)


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> str:
    return masks.video(tmp_path_factory.mktemp("few") / "few.mp4", cases.frames(SIZE, FEW, 4), *X264)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> str:
    """Noise, of which frames come while it arrives."""
    noise = np.random.default_rng(11).integers(0, 255, (COUNT, 64, 64, 3), np.uint8)
    return masks.video(tmp_path_factory.mktemp("large") / "large.mkv", noise, *X264, "-qp", "2")


@pytest.fixture(scope="module")
def gpu(tiny_model, tmp_path_factory):
    """One that works, for the tests that leave it so."""
    with with_driver(tiny_model, tmp_path_factory.mktemp("gpu"), "--decode-timeout", TIMEOUT) as d:
        assert tried(d) == "nvdec"
        yield d


@pytest.fixture(scope="module")
def cpu(tiny_model, tmp_path_factory):
    """The same with the CPU's decoder."""
    with with_driver(tiny_model, tmp_path_factory.mktemp("cpu"), "--video-decoder", "cpu") as d:
        assert tried(d) == "the setting video_decoder"
        yield d


@pytest.fixture(scope="module")
def wanted(cpu, clip) -> bytes:
    job = cpu.upload(clip, "?format=raw")
    assert job["decoder"] == "cpu" and decoded(cpu)[0] == 0
    return result(cpu, job)


@pytest.fixture(scope="module")
def wanted_large(cpu, large) -> bytes:
    return result(cpu, cpu.upload(large, "?format=raw"))


# ----------------------------------------------------------------------------------------------- the same masks
@pytest.mark.parametrize("name", sorted(ENDING))
def test_masks_are_those_of_the_cpus_decoder_and_the_tools(gpu, cpu, tiny_model, few, tmp_path, name):
    before = decoded(gpu)
    job = gpu.upload(few, f"?format={name}")
    body = result(gpu, job)
    assert body == result(cpu, cpu.upload(few, f"?format={name}"))
    there = name != "overlay"   # which needs the pictures here, and is encoded by other threads in the tool
    out = tmp_path / f"out.{ENDING[name]}"
    if there:
        subprocess.run([CUDA_HOST_TV3S, "segment", tiny_model, few, "-o", out, "--format", name, "--device", "cuda"],
                       check=True, capture_output=True)
        assert body == out.read_bytes()
    assert job["decoder"] == ("nvdec" if there else "cpu")
    assert decoded(gpu) == (before[0] + FEW * there, before[1] + FEW * (not there))
    gpu.wait_for(lambda: memories(gpu) == 0 and gpu.metric("tv3sd_decoders") == 0)


@pytest.mark.parametrize("query", ["mode=clip", "mode=frame", "resize=48x32"])
def test_modes(gpu, cpu, few, query):
    job = gpu.upload(few, "?format=raw&" + query)
    assert job["decoder"] == "nvdec"
    assert result(gpu, job) == result(cpu, cpu.upload(few, "?format=raw&" + query))


@pytest.mark.parametrize("name, size, codec, there", [
    ("cropped.mp4", (50, 66), X264, True),
    ("vp8.webm", (64, 64), ("-c:v", "libvpx", "-deadline", "realtime", "-pix_fmt", "yuv420p"), True),
    ("odd.mp4", (65, 97), (*X264[:2], "-pix_fmt", "yuv444p"), False),
    ("ten-bits.mkv", SIZE, ("-c:v", "libx264", "-pix_fmt", "yuv420p10le"), False),
    ("ffv1.mkv", SIZE, ("-c:v", "ffv1"), False),
    ("image.png", SIZE, ("-frames:v", "1", "-c:v", "png"), False),
])
def test_what_the_device_has_no_decoder_for(gpu, cpu, tmp_path, name, size, codec, there):
    video = masks.video(tmp_path / name, cases.frames(size, 6, 3), *codec)
    job = gpu.upload(video, "?format=raw")
    assert job["decoder"] == ("nvdec" if there else "cpu")
    assert result(gpu, job) == result(cpu, cpu.upload(video, "?format=raw"))
    said = re.search(fr"event=job_decoder job={job['id']} decoder=(\w+) why=(.*)", gpu.log())
    assert said[1] == job["decoder"] and (said[2] == '""') == there
    assert failed(gpu) == 0


def test_frames_that_come_while_the_upload_arrives(gpu, large, wanted_large):
    seen = []

    def during():
        gpu.wait_for(lambda: decoders(gpu, "video"))
        job = gpu.json("/v1/videos")["videos"][0]["id"]
        gpu.wait_for(lambda: gpu.json("/v1/videos/" + job)["frames"]["done"] > 0)
        seen.append(gpu.json("/v1/videos/" + job)["decoder"])
    assert result(gpu, upload_slowly(gpu, large, "?format=raw", ARRIVING, during)) == wanted_large and seen == ["nvdec"]


def test_several_devices(tiny_model, tmp_path, clip, wanted):
    """Each has its own decoder, and pictures there."""
    with with_driver(tiny_model, tmp_path, "--jobs-running", "2", devices=2) as d:
        assert tried(d, 0) == tried(d, 1) == "nvdec"
        d.process.send_signal(signal.SIGUSR2)   # holds the devices, so that two run at once
        jobs = [d.upload(clip, "?format=raw", wait=False)["id"] for _ in range(2)]
        d.wait_for(lambda: len(decoders(d, "video")) == 2)
        d.process.send_signal(signal.SIGUSR2)
        for job in map(d.finish, jobs):
            assert job["decoder"] == "nvdec" and result(d, job) == wanted
        assert all(d.metric(f'tv3sd_engine_frames_total{{engine="{i}",device="cuda:{i}"}}') == COUNT for i in range(2))
        assert decoded(d) == (2 * COUNT, 0)


# ----------------------------------------------------------------------------------------- a decoder that fails
def end_in_the_middle(d: Daemon, clip: str, number) -> dict:
    """Its decoder waits for bytes, in the middle."""
    def during():
        pid = decoder(d, "video")
        job = d.json("/v1/videos")["videos"][0]["id"]
        d.wait_for(lambda: d.json("/v1/videos/" + job)["frames"]["done"] > 4)
        kill(pid, number)
        if number != signal.SIGSTOP:
            d.wait_for(lambda: not alive(pid))
    return upload_slowly(d, clip, "?format=raw", ARRIVING, during)


@pytest.mark.parametrize("number, reason", [(signal.SIGKILL, "killed"), (signal.SIGSEGV, "crashed"), (signal.SIGSTOP, "hung")])
def test_one_that_dies_costs_nobody_anything(gpu, large, wanted_large, clip, wanted, number, reason):
    before = failed(gpu)
    job = end_in_the_middle(gpu, large, number)
    assert result(gpu, job) == wanted_large and job["decoder"] == "cpu" and job["error"] is None and job["warning"] is None
    assert job["frames"] == {"done": COUNT, "total": COUNT, "corrupt": 0}
    assert gpu.metric(f'tv3sd_decoders_died_total{{reason="{reason}"}}') == 1 and failed(gpu) == before + 1
    assert re.search(fr"event=video_decoder_failed job={job['id']} device=cuda:0 error=", gpu.log())
    again = gpu.upload(clip, "?format=raw")   # so the failures are not in a row
    assert again["decoder"] == "nvdec" and result(gpu, again) == wanted
    gpu.wait_for(lambda: memories(gpu) == 0 and gpu.metric("tv3sd_decoders") == 0)


def test_a_job_is_cancelled_with_its_pictures(gpu, large):
    job = gpu.upload(large, "?format=raw", wait=False)["id"]
    gpu.wait_log(f"event=job_decoder job={job} decoder=nvdec")
    gpu.process.send_signal(signal.SIGUSR2)   # holds the device: pictures are on their way through the engine
    assert gpu.request("DELETE", "/v1/videos/" + job).status == 204
    gpu.process.send_signal(signal.SIGUSR2)
    gpu.wait_for(lambda: memories(gpu) == 0 and gpu.metric("tv3sd_decoders") == 0)


@pytest.mark.parametrize("fault, died", [("decode", None), ("map", None), ("crash", "crashed"), ("socket", "forbidden")])
def test_a_driver_that_fails_at_some_picture(tiny_model, tmp_path, clip, wanted, fault, died):
    """Behind those of the trial. A socket is what no decoder needs."""
    at = TRIAL + 5
    with with_driver(tiny_model, tmp_path, **{fault: at}) as d:
        assert tried(d) == "nvdec"
        job = d.upload(clip, "?format=raw")
        assert result(d, job) == wanted and job["decoder"] == "cpu" and job["frames"]["corrupt"] == 0
        there, here = decoded(d)
        assert 0 < there <= at and there + here == COUNT and failed(d) == 1
        if died:
            assert d.metric(f'tv3sd_decoders_died_total{{reason="{died}"}}') == 1
        else:
            assert "event=decoder_died" not in d.log()


def test_three_failures_in_a_row_are_enough(tiny_model, tmp_path, clip, wanted):
    short = masks.video(tmp_path / "short.mkv", cases.frames(SIZE, TRIAL, 5), *X264)
    with with_driver(tiny_model, tmp_path, decode=TRIAL + 5) as d:
        assert tried(d) == "nvdec"

        def upload(video, decoder):
            assert d.upload(video, "?format=raw")["decoder"] == decoder
        for video in (clip, clip, short, clip, clip):
            upload(video, "nvdec" if video == short else "cpu")
        upload(short, "nvdec")
        for i in range(3):
            upload(clip, "cpu")
        assert failed(d) == 7 and re.search(r"event=video_decoder on=cpu device=cuda:0 why=.*three", d.log())
        before = decoded(d)
        upload(short, "cpu")
        assert decoded(d) == (before[0], before[1] + TRIAL)
        assert d.metric("tv3sd_decoders_started_total") == 3 + 7 * 2 + 2 + 1   # the start's; a failure wants another


def test_a_broken_video_is_no_failure_of_the_decoder(gpu, tmp_path):
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(os.urandom(5000))
    before = failed(gpu)
    job = gpu.upload(broken, "?format=raw")
    assert job["state"] == "failed" and job["error"]["type"] == "/problems/bad-format" and job["decoder"] is None
    assert failed(gpu) == before


# ------------------------------------------------------------------------------------------- where there is none
@pytest.mark.parametrize("why, how", [
    ("libcuda.so.1", dict(without=("libcuda.so.1",))),
    ("libnvcuvid.so.1", dict(without=("libnvcuvid.so.1",))),
    ("cuda:0: ", dict(codecs=0)),
    ("cuda:0: ", dict(memory=1000)),
    ("cuvidDecodePicture failed", dict(decode=3)),
    ("frame 7 differs", dict(wrong=7)),
    ("the decoder crashed", dict(crash=3)),
    ("the decoder tried what it may not", dict(socket=0)),
])
def test_a_decoder_that_is_not_right_is_not_used(tiny_model, tmp_path, clip, wanted, why, how):
    with with_driver(tiny_model, tmp_path, **how) as d:
        assert why in tried(d) and d.get("/readyz").status == 200
        job = d.upload(clip, "?format=raw")
        assert result(d, job) == wanted and job["decoder"] == "cpu" and decoded(d) == (0, COUNT) and failed(d) == 0


def test_without_a_sandbox_there_is_none(tiny_model, tmp_path, clip, wanted):
    with with_driver(tiny_model, tmp_path, "--sandbox=false") as d:
        assert tried(d) == "the sandbox is off"
        job = d.upload(clip, "?format=raw")
        assert result(d, job) == wanted and job["decoder"] == "cpu"


def test_other_values_are_refused(tiny_model, tmp_path):
    done = subprocess.run([CUDA_HOST_TV3SD, "--check", "--model", tiny_model, "--spool", tmp_path / "s", "--video-decoder", "gpu"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and "video_decoder 'gpu': auto or cpu is wanted" in done.stderr


# ----------------------------------------------------------------------------------------------- its confinement
def test_its_process_is_confined(gpu, large):
    status = []

    def during():
        pid = decoder(gpu, "video")
        job = gpu.json("/v1/videos")["videos"][0]["id"]
        gpu.wait_for(lambda: gpu.json("/v1/videos/" + job)["decoder"] == "nvdec")
        for name in ("status", "limits"):
            with open(f"/proc/{pid}/{name}") as f:
                status.append(f.read())
    upload_slowly(gpu, large, "", ARRIVING, during)
    assert "NoNewPrivs:\t1" in status[0] and "Seccomp:\t2" in status[0]
    assert re.search(r"Max file size +0 +0 ", status[1])
    if not SANITIZED:
        assert not re.search(r"Max data size +unlimited", status[1])


# --------------------------------------------------------------------------------------------------- it goes on
def test_a_job_that_was_cut_short_goes_on(tiny_model, tmp_path, clip, wanted):
    """By the loss of power at some fsync; with the decoder, and without it in the next process."""
    for name, after in (("nvdec", "auto"), ("cpu", "cpu")):
        env = power.preload("power", tmp_path, POWER_AFTER="15")
        folder = tmp_path / name
        folder.mkdir()
        program = program_with_driver(CUDA_HOST_TV3SD, folder)
        flags = ("--device", "cuda", "--room-size", "", "--job-checkpoint", "0")
        with Daemon(tiny_model, folder / "spool", *flags, env=env, program=program) as d:
            assert tried(d) == "nvdec"
            job = d.upload(clip, "?format=raw", wait=False)["id"]
            assert d.process.wait(PATIENCE) == -signal.SIGKILL
            assert f"event=job_decoder job={job} decoder=nvdec" in d.log()
        assert 0 < kept(folder / "spool")[job] < COUNT
        with Daemon(tiny_model, folder / "spool", *flags, "--video-decoder", after, program=program) as d:
            ended = d.finish(job)
            assert result(d, ended) == wanted and f"event=job_resumed job={job}" in d.log()
        with Daemon(tiny_model, folder / "spool", *flags, program=program) as d:
            assert d.json("/v1/videos/" + job)["decoder"] == ended["decoder"]   # which may be either: the trial is not waited for


def test_memory_does_not_grow_with_the_jobs(tiny_model, tmp_path, cpu, few):
    with with_driver(tiny_model, tmp_path, "--jobs-running", "4", "--jobs-max", "100") as d:
        assert tried(d) == "nvdec"
        wanted = result(cpu, cpu.upload(few, "?format=raw"))
        jobs = [d.upload(few, "?format=raw", wait=False)["id"] for _ in range(12)]
        for job in map(d.finish, jobs):
            assert job["decoder"] == "nvdec" and result(d, job) == wanted
        d.wait_for(lambda: memories(d) == 0 and d.metric("tv3sd_decoders") == 0)
        assert decoded(d) == (12 * FEW, 0) and json.dumps("pictures come by the host")[1:-1] not in d.log()
        assert len(os.listdir(f"/proc/{d.process.pid}/fd")) < 100
