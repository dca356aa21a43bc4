"""Uploaded videos: the result is that of `tv3s segment`, byte for byte, and bad ones fail with their reason."""
from __future__ import annotations

import gzip
import io
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import zipfile

import numpy as np
import pytest

import cases
import masks
import sandbox
from conftest import TV3S
from daemon import CUDA_HOST_TV3SD, PATIENCE, Daemon
from test_http import animated, bomb, multipart

ENDING = {"png": "zip", "raw": "raw", "rle": "jsonl", "coco_rle": "jsonl", "overlay": "mp4", "labels": "mkv"}
MIME = {"png": "application/zip", "raw": "application/octet-stream", "rle": "application/x-ndjson",
        "coco_rle": "application/x-ndjson", "overlay": "video/mp4", "labels": "video/x-matroska"}
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "4")
FRAMES = 10


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return cases.frames((64, 96), FRAMES, 21)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, rgb) -> str:
    """An MP4 with its index at the end, as x264 writes it."""
    return masks.video(tmp_path_factory.mktemp("clip") / "clip.mp4", rgb, *X264)


def tool(model, source, out, *options) -> bytes:
    subprocess.run([TV3S, "segment", model, source, "-o", out, *map(str, options)], check=True, capture_output=True)
    with open(out, "rb") as f:
        return f.read()


def upload_slowly(d: Daemon, path: str, query="", pause_at=0.5, during=None) -> dict:
    """Sends part of the file, calls during(), and sends the rest."""
    data = open(path, "rb").read()
    cut = int(len(data) * pause_at)
    with socket.create_connection(("127.0.0.1", d.http_port), timeout=120) as s:
        s.sendall(f"POST /v1/videos{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode())
        s.sendall(data[:cut])
        if during:
            during()
        s.sendall(data[cut:])
        answer = b""
        while b"\r\n\r\n" not in answer or b"}" not in answer.split(b"\r\n\r\n")[-1]:
            answer += s.recv(65536)
    assert answer.startswith(b"HTTP/1.1 202"), answer
    return d.finish(json.loads(answer.split(b"\r\n\r\n")[-1])["id"])


# ------------------------------------------------------------------------------------------------------ results
@pytest.mark.parametrize("name", ENDING)
def test_the_result_is_the_tools(daemon, tiny_model, clip, tmp_path, name):
    job = daemon.upload(clip, f"?format={name}")
    assert job["state"] == "succeeded" and job["frames"] == {"done": FRAMES, "total": FRAMES, "corrupt": 0}
    assert job["size"] == [96, 64] and job["fps"] == 25 and job["error"] is None and job["format"] == name
    assert job["created"] <= job["started"] <= job["finished"]
    r = daemon.get(job["masks"])
    assert r.status == 200 and r.headers["Content-Type"] == MIME[name]
    assert r.body == tool(tiny_model, clip, tmp_path / f"out.{ENDING[name]}", "--format", name)
    assert daemon.request("DELETE", "/v1/videos/" + job["id"]).status == 204


def test_single_masks_are_those_of_the_whole(daemon, clip, rgb):
    job = daemon.upload(clip)
    with zipfile.ZipFile(io.BytesIO(daemon.get(job["masks"]).body)) as z:
        for i in range(FRAMES):
            one = daemon.get(f"{job['masks']}/{i}")
            assert one.headers["Content-Type"] == "image/png" and one.body == z.read(f"{i:06d}.png")
    assert daemon.get(f"{job['masks']}/{FRAMES}").status == 404
    lines = daemon.upload(clip, "?format=rle")
    text = daemon.get(lines["masks"]).body.decode().splitlines()
    assert [daemon.get(f"{lines['masks']}/{i}").body.decode() for i in range(FRAMES)] == text
    for name in ("labels", "overlay"):
        video = daemon.upload(clip, f"?format={name}")
        one = daemon.get(f"{video['masks']}/3")
        assert one.headers["Content-Type"] == "image/png"
        if name == "labels":
            assert np.array_equal(masks.png(one.body), masks.rle(json.loads(text[3])))


@pytest.mark.parametrize("name, codec", [
    ("front.mp4", (*X264, "-qp", "2", "-movflags", "+faststart")),
    ("fragments.mp4", (*X264, "-qp", "2", "-movflags", "frag_keyframe+empty_moov")),
    ("a.mkv", (*X264, "-qp", "2")), ("a.webm", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")),
    ("a.ts", ("-c:v", "mpeg2video", "-q:v", "2")), ("a.avi", ("-c:v", "mpeg4", "-q:v", "2")),
    ("a.mov", ("-c:v", "png")), ("a.gif", ()),
])
def test_containers_give_the_same_however_they_arrive(daemon, tiny_model, tmp_path, name, codec):
    frames = np.random.default_rng(3).integers(0, 255, (12, 96, 128, 3), np.uint8)   # noise: more than 64 KiB
    source = masks.video(tmp_path / name, frames, *codec)
    assert os.path.getsize(source) > 100_000
    want = tool(tiny_model, source, tmp_path / "o.jsonl")
    for job in (daemon.upload(source, "?format=rle"), upload_slowly(daemon, source, "?format=rle", 0.8)):
        assert job["state"] == "succeeded", job
        assert daemon.get(job["masks"]).body == want


def test_masks_come_while_the_video_is_arriving(daemon, tmp_path, tiny_model):
    frames = np.random.default_rng(4).integers(0, 255, (12, 96, 96, 3), np.uint8)
    source = masks.video(tmp_path / "a.mkv", frames, "-c:v", "ffv1", "-g", "1")
    assert os.path.getsize(source) > 200_000
    seen = []

    def look():
        daemon.wait_for(lambda: daemon.json("/v1/videos")["videos"][0]["frames"]["done"] > 0)
        job = daemon.json("/v1/videos")["videos"][0]
        seen.append((job, daemon.get(f"/v1/videos/{job['id']}/masks/0").status,
                     daemon.get(f"/v1/videos/{job['id']}/masks")))

    job = upload_slowly(daemon, source, "?format=raw", 0.8, look)
    before, first, whole = seen[0]
    assert before["state"] == "running" and 0 < before["frames"]["done"] < 12 and first == 200
    assert whole.status == 409 and whole.problem() == "no-result"
    assert daemon.get(job["masks"]).body == tool(tiny_model, source, tmp_path / "o.raw")


def test_a_still_image_is_a_video_of_one_frame(daemon, tiny_model, tmp_path, rgb):
    source = os.path.join(masks.images(tmp_path / "in", rgb[:1]), "0000.png")
    for name in ("rle", "png"):
        job = daemon.upload(source, f"?format={name}")
        assert job["state"] == "succeeded" and job["frames"]["done"] == 1
        assert daemon.get(job["masks"]).body == tool(tiny_model, source, tmp_path / f"o.{ENDING[name]}")


def test_modes_and_resize_reach_the_engine(daemon, tiny_model, clip, tmp_path):
    for query, options in (("mode=frame", ["--mode", "frame"]), ("mode=clip", ["--mode", "clip"])):
        job = daemon.upload(clip, f"?format=raw&{query}")
        assert daemon.get(job["masks"]).body == tool(tiny_model, clip, tmp_path / "o.raw", *options)


def test_uploads_as_a_form(daemon, clip):
    body, kind = multipart(open(clip, "rb").read(), "file")
    r = daemon.request("POST", "/v1/videos?format=raw", body, Content_Type=kind)
    assert r.status == 202 and daemon.finish(r.json()["id"])["state"] == "succeeded"
    form = daemon.get(f"/v1/videos/{r.json()['id']}/masks").body
    assert form == daemon.get(daemon.upload(clip, "?format=raw")["masks"]).body


def test_many_videos_at_once(daemon, tiny_model, clip, tmp_path):
    want, got = tool(tiny_model, clip, tmp_path / "o.raw"), []
    threads = [threading.Thread(target=lambda: got.append(daemon.upload(clip, "?format=raw"))) for _ in range(5)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(got) == 5 and all(daemon.get(j["masks"]).body == want for j in got)
    listed = [j["created"] for j in daemon.json("/v1/videos")["videos"]]
    assert listed == sorted(listed, reverse=True)


# ------------------------------------------------------------------------------------------------------- ranges
def test_ranges(daemon, clip):
    path = daemon.upload(clip, "?format=raw")["masks"]
    r = daemon.get(path)
    whole, tag = r.body, r.headers["ETag"]
    assert r.headers["Accept-Ranges"] == "bytes"
    for text, part in (("0-9", whole[:10]), ("100-", whole[100:]), ("-7", whole[-7:]), ("5-99999999", whole[5:]),
                       (f"-{len(whole) + 5}", whole)):
        r = daemon.get(path, Range="bytes=" + text)
        assert r.status == 206 and r.body == part
        first = len(whole) - len(part) if text != "0-9" else 0
        assert r.headers["Content-Range"] == f"bytes {first}-{first + len(part) - 1}/{len(whole)}"
    for text in (f"{len(whole)}-", "-0"):
        r = daemon.get(path, Range="bytes=" + text)
        assert (r.status, r.problem()) == (416, "range") and r.headers["Content-Range"] == f"bytes */{len(whole)}"
    for text in ("bytes=9-3", "bytes=a-b", "lines=0-3", "bytes=0-1,5-6"):
        r = daemon.get(path, Range=text)
        assert r.status == 200 and r.body == whole
    assert daemon.get(path, Range="bytes=0-4", If_Range=tag).status == 206
    assert daemon.get(path, Range="bytes=0-4", If_Range='"other"').body == whole
    r = daemon.request("HEAD", path)
    assert int(r.headers["Content-Length"]) == len(whole) and r.body == b""


@pytest.mark.parametrize("name", ["rle", "coco_rle", "raw", "png", "labels"])
def test_a_result_that_is_text_is_compressed(daemon, tmp_path, name):
    source = masks.video(tmp_path / "a.mkv", cases.frames((192, 256), 6, 8), *X264)
    path = daemon.upload(source, f"?format={name}")["masks"]
    plain, zipped = daemon.get(path), daemon.get(path, Accept_Encoding="gzip")
    assert "Content-Encoding" not in plain.headers and plain.headers["Accept-Ranges"] == "bytes"
    if name in ("png", "labels"):
        assert zipped.body == plain.body and zipped.headers["ETag"] == plain.headers["ETag"]
        assert "Content-Encoding" not in zipped.headers and "Vary" not in zipped.headers
        return
    assert zipped.headers["Content-Encoding"] == "gzip" and gzip.decompress(zipped.body) == plain.body
    assert len(zipped.body) < len(plain.body) and plain.headers["Vary"] == zipped.headers["Vary"] == "Accept-Encoding"
    assert zipped.headers["ETag"] != plain.headers["ETag"] and "Accept-Ranges" not in zipped.headers
    part = daemon.get(path, Accept_Encoding="gzip", Range="bytes=3-12")     # bytes of the result, never of its gzip
    assert part.status == 206 and part.body == plain.body[3:13] and "Content-Encoding" not in part.headers
    for tag in (zipped.headers["ETag"], '"other"'):
        r = daemon.get(path, Accept_Encoding="gzip", Range="bytes=3-12", If_Range=tag)
        assert r.status == 200 and r.body == plain.body and "Content-Encoding" not in r.headers
    one, small = daemon.get(path + "/2"), daemon.get(path + "/2", Accept_Encoding="gzip")
    assert gzip.decompress(small.body) == one.body and small.headers["Content-Encoding"] == "gzip"


def test_a_slow_reader_of_a_large_result_delays_nobody(daemon, clip):
    path = daemon.upload(clip, "?format=raw")["masks"]
    with socket.create_connection(("127.0.0.1", daemon.http_port)) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 50)
        time.sleep(0.3)
        assert daemon.get("/livez").status == 200


# ------------------------------------------------------------------------------------------------------- events
def events(d: Daemon, job_id: str, begun=lambda: None) -> list[tuple[str, dict]]:
    """`begun` is called after each."""
    c, out = d.connect(), []
    c.request("GET", f"/v1/videos/{job_id}/events")
    r = c.getresponse()
    assert r.status == 200 and r.headers["Content-Type"] == "text/event-stream"
    kind = None
    for line in r:
        line = line.decode().rstrip("\n")
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            out.append((kind, json.loads(line[6:])))
            begun()
    c.close()
    return out


def test_events_tell_the_way_to_the_end(daemon, tmp_path):
    frames = cases.frames((256, 384), 24, 5)
    job = daemon.upload(masks.video(tmp_path / "a.mp4", frames, *X264), wait=False)
    assert daemon.request("HEAD", f"/v1/videos/{job['id']}/events").body == b""
    began = time.monotonic()
    told = events(daemon, job["id"])
    seconds = time.monotonic() - began
    assert [k for k, _ in told[:-1]] == ["progress"] * (len(told) - 1) and told[-1][0] == "end"
    done = [j["frames"]["done"] for _, j in told]
    assert done == sorted(done) and done[-1] == 24 and told[-1][1]["state"] == "succeeded"
    states = [j["state"] for _, j in told]
    assert sorted(set(states), key=states.index) == [s for s in ("queued", "running", "succeeded") if s in states]
    assert len(told) <= 5 * seconds + 4      # at most five a second; the first, the last, the end
    again = events(daemon, job["id"])
    assert [(k, j["state"]) for k, j in again] == [("progress", "succeeded"), ("end", "succeeded")]


def test_events_of_a_deleted_job_end(tmp_path, tiny_model, clip):
    """One runs, for its upload is not whole and stands still, and one waits for it."""
    noise = np.random.default_rng(4).integers(0, 255, (12, 96, 96, 3), np.uint8)
    source = masks.video(tmp_path / "a.mkv", noise, "-c:v", "ffv1", "-g", "1")
    with Daemon(tiny_model, tmp_path / "spool", "--jobs-running", "1") as d, \
            socket.create_connection(("127.0.0.1", d.http_port)) as s:
        s.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n" + open(source, "rb").read())
        d.wait_for(lambda: d.json("/v1/videos")["videos"])
        first, = d.json("/v1/videos")["videos"]
        d.wait_for(lambda: d.json("/v1/videos/" + first["id"])["state"] == "running")
        second = d.upload(clip, wait=False)
        assert d.json("/v1/videos/" + second["id"])["state"] == "queued"
        told, begun = [], [threading.Event(), threading.Event()]
        threads = [threading.Thread(target=lambda i=j["id"], b=b: told.append(events(d, i, b.set)))
                   for j, b in zip((first, second), begun)]
        [t.start() for t in threads]
        assert all(b.wait(PATIENCE) for b in begun)
        for j in (first, second):
            assert d.request("DELETE", "/v1/videos/" + j["id"]).status == 204
        [t.join() for t in threads]
        s.close()
        assert [(t[-1][0], t[-1][1]["state"]) for t in told] == [("end", "cancelled")] * 2
        assert d.json("/v1/videos")["videos"] == []
        d.wait_for(lambda: d.folders() == [])


# ---------------------------------------------------------------------------------------------------- bad input
def failed(d: Daemon, path, data: bytes) -> dict:
    path.write_bytes(data)
    job = d.upload(str(path))
    assert job["state"] == "failed" and job["masks"] is None
    assert d.get(f"/v1/videos/{job['id']}/masks").status == 409
    assert d.spool not in json.dumps(job)
    return job["error"]


def test_what_is_no_video_fails_with_its_reason(daemon, tmp_path, clip):
    whole = open(clip, "rb").read()
    hls = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    ffconcat = f"ffconcat version 1.0\nfile '{clip}'\n".encode()
    sdp = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    for data in (b"this is no video" * 100, b"x", hls, ffconcat, sdp, b"\0" * 200_000):
        error = failed(daemon, tmp_path / "bad", data)
        assert error["type"] == "/problems/bad-format" and error["status"] == 422 and error["detail"], data
    assert failed(daemon, tmp_path / "cut", whole[: len(whole) // 2])["type"] == "/problems/bad-format"
    assert failed(daemon, tmp_path / "bomb", bomb(60000, 60000))["type"] in ("/problems/over-limit",
                                                                            "/problems/bad-format")
    silence = tmp_path / "a.wav"
    masks.ffmpeg("-f", "lavfi", "-i", "anullsrc", "-t", "0.1", silence)
    assert failed(daemon, tmp_path / "audio", silence.read_bytes())["type"] == "/problems/bad-format"
    error = failed(daemon, tmp_path / "animated", animated())
    assert error["type"] == "/problems/unsupported" and "animated WebP" in error["detail"]
    assert daemon.upload(clip)["state"] == "succeeded"


def test_a_cut_video_gives_what_it_has(daemon, tiny_model, tmp_path, rgb):
    source = masks.video(tmp_path / "a.mkv", rgb, "-c:v", "ffv1", "-g", "1")
    data = open(source, "rb").read()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    job = daemon.upload(str(tmp_path / "cut.mkv"), "?format=raw")
    assert job["state"] == "succeeded" and 0 < job["frames"]["done"] < FRAMES
    assert daemon.get(job["masks"]).body == tool(tiny_model, tmp_path / "cut.mkv", tmp_path / "o.raw")


@pytest.mark.parametrize("name", ["in.mp4", "in.mkv"])
def test_a_job_says_that_the_end_of_its_video_is_missing(tmp_path, tiny_model, rgb, name):
    """However it arrives, and after the daemon was started again."""
    whole, cut = tmp_path / name, tmp_path / f"cut-{name}"
    masks.video(whole, rgb, *X264, *(("-movflags", "faststart") if name == "in.mp4" else ()))
    cut.write_bytes(whole.read_bytes()[:whole.stat().st_size * 8 // 10])
    with Daemon(tiny_model, tmp_path / "spool") as d:
        assert d.upload(str(whole))["warning"] is None
        jobs = [d.upload(str(cut)), upload_slowly(d, str(cut))]
        for job in jobs:
            assert job["state"] == "succeeded" and 0 < job["frames"]["done"] < FRAMES
            assert job["frames"]["corrupt"] > 0 and job["warning"].startswith("the file is cut off: ")
    with Daemon(tiny_model, tmp_path / "spool") as d:
        assert d.json("/v1/videos/" + jobs[0]["id"]) == jobs[0]


def test_refused_uploads_leave_nothing(daemon, clip):
    before = len(daemon.json("/v1/videos")["videos"])
    for query, body, kind, status in (("?format=x", b"abc", None, 400), ("?model=x", b"abc", None, 404),
                                      ("", b"", None, 400), ("", b"a=b", "application/x-www-form-urlencoded", 415),
                                      ("?color=red", b"abc", None, 400)):
        headers = {"Content_Type": kind} if kind else {}
        r = daemon.request("POST", "/v1/videos" + query, body, **headers)
        assert r.status == status and r.problem()
    with socket.create_connection(("127.0.0.1", daemon.http_port)) as s:     # breaks off in the middle
        s.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"x" * 5000)
        daemon.wait_for(lambda: len(daemon.json("/v1/videos")["videos"]) > before)
    daemon.wait_for(lambda: len(daemon.json("/v1/videos")["videos"]) == before)
    assert daemon.get("/v1/videos/nobody").status == 404


def test_a_client_that_hangs_up_is_noticed_before_any_timeout(tmp_path, tiny_model):
    """Its last bytes and the end of its stream arrive together, in all the ways of cutting a request."""
    head = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\n"
    cuts = [1, 20, len(head) - 1, *(len(head) + n for n in (0, 1, 100, 5000, 16384, 32768, 65536, 70000, 300000))]
    with Daemon(tiny_model, tmp_path / "spool", "--http-timeout", "3600") as d:
        for cut in cuts * 4:
            with socket.create_connection(("127.0.0.1", d.http_port)) as s:
                s.sendall((head + b"x" * 300000)[:cut])
        d.wait_for(lambda: d.metric('tv3sd_connections{protocol="http"}') == 1)
        assert d.json("/v1/videos")["videos"] == []
        d.wait_for(lambda: d.folders() == [])


def test_a_client_that_closes_its_half_gets_its_answers(daemon, clip):
    body = open(clip, "rb").read()
    request = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for count in (1, 3):
        with socket.create_connection(("127.0.0.1", daemon.http_port), timeout=120) as s:
            s.sendall(request * count + b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            s.shutdown(socket.SHUT_WR)
            answers = b""
            while piece := s.recv(65536):
                answers += piece
        assert answers.count(b"HTTP/1.1 202 ") == count and answers.count(b"HTTP/1.1 200 ") == 1


def test_limits_of_videos(tmp_path, tiny_model, clip, rgb):
    flags = ("--max-upload", "300000", "--max-frames", "8", "--max-duration", "1.5", "--max-pixels", "20000",
             "--jobs-max", "3")
    with Daemon(tiny_model, tmp_path / "spool", *flags) as d:
        assert d.upload(clip)["error"]["type"] == "/problems/over-limit"                       # ten frames
        slow = masks.video(tmp_path / "slow.mkv", rgb[:5], *X264, rate=2)
        assert d.upload(slow)["error"]["type"] == "/problems/over-limit"                       # 2.5 s
        large = masks.video(tmp_path / "large.mkv", cases.frames((160, 160), 2, 1), *X264)
        job = d.upload(large)
        assert job["error"]["type"] == "/problems/over-limit" and "20000" in job["error"]["detail"]
        r = d.request("POST", "/v1/videos", b"x" * 1000)
        assert r.status == 503 and r.headers["Retry-After"]                                    # three are there
        for j in d.json("/v1/videos")["videos"]:
            d.request("DELETE", "/v1/videos/" + j["id"])
        assert d.request("POST", "/v1/videos", b"x" * 300001).status == 413
        r = d.request("POST", "/v1/videos", iter([b"x" * 100000] * 4))
        assert (r.status, r.problem()) == (413, "over-limit")
        short = masks.video(tmp_path / "short.mkv", rgb[:3], *X264)
        assert d.upload(short)["state"] == "succeeded"


def test_the_end_of_the_daemon_keeps_what_was_accepted(tmp_path, tiny_model):
    slow = masks.video(tmp_path / "a.mp4", cases.frames((160, 224), 60, 5), *X264)
    with Daemon(tiny_model, tmp_path / "spool", "--drain-seconds", "1", "--job-window", "1", "--device", "cuda",
                "--room-size", "", program=CUDA_HOST_TV3SD) as d:
        d.process.send_signal(signal.SIGUSR2)   # holds the engine, so there is a decoder to stop, and the job lasts
        job, begun = d.upload(slow, wait=False), threading.Event()
        d.wait_log("the stand-in is waited for")
        sandbox.kill(sandbox.decoder(d, "video"), signal.SIGSTOP)
        d.process.send_signal(signal.SIGUSR2)
        watcher = threading.Thread(target=lambda: events(d, job["id"], begun.set))
        watcher.start()
        sender = socket.create_connection(("127.0.0.1", d.http_port))          # half an upload
        sender.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"x" * 5000)
        assert begun.wait(PATIENCE)
        d.wait_for(lambda: len(d.json("/v1/videos")["videos"]) == 2)
        assert d.stop() == 0
        d.wait_log(f"level=info event=job_waits job={job['id']} reason=stopping")
        watcher.join()
        sender.close()
        assert d.folders() == [job["id"]]


def test_decoded_bytes_are_limited(tmp_path, tiny_model):
    """A small file of many large pictures: 40 of 240x240 are 6.9 MB."""
    still = masks.video(tmp_path / "still.mkv", np.zeros((40, 240, 240, 3), np.uint8), *X264)
    with Daemon(tiny_model, tmp_path / "spool", "--max-decoded", "5000000") as d:
        job = d.upload(still)
        assert job["error"]["type"] == "/problems/over-limit" and "5000000" in job["error"]["detail"]
        assert os.path.getsize(still) < 50000 and job["frames"]["done"] < 40


def test_decoders_that_are_not_on_the_list_are_not_used(daemon, tmp_path, rgb):
    for codec in ("zmbv", "asv1", "snow"):
        odd = masks.video(tmp_path / f"{codec}.avi", rgb, "-c:v", codec, "-strict", "-2", "-pix_fmt",
                          "bgr0" if codec == "zmbv" else "yuv420p")
        error = daemon.upload(odd)["error"]
        assert (error["type"], error["status"]) == ("/problems/unsupported", 415) and codec in error["detail"]


def test_uploads_keep_memory_flat(tmp_path, tiny_model):
    """200 MB of raw pictures, while they arrive; the frames in flight are 8 of 0.7 MB. (AddressSanitizer would keep
    256 MB of what was freed.)"""
    env = {**os.environ, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=4"}
    size = (360, 640)
    long = masks.video(tmp_path / "long.nut", cases.frames(size, 10, 5).repeat(30, axis=0), "-c:v", "rawvideo")
    assert os.path.getsize(long) > 200e6
    with Daemon(tiny_model, tmp_path / "spool", "--threads", "1", env=env) as d:
        def peak() -> int:
            with open(f"/proc/{d.process.pid}/status") as f:
                return int(re.search(r"VmHWM:\s+(\d+) kB", f.read())[1]) // 1024
        with open(long, "rb") as f:
            head = f.read(20 << 20)
        (tmp_path / "head.nut").write_bytes(head)
        d.upload(str(tmp_path / "head.nut"), "?format=rle&resize=64x64")   # what any such video needs
        before = peak()
        with open(long, "rb") as f:
            r = d.request("POST", "/v1/videos?format=rle&resize=64x64", f)
        job = d.finish(r.json()["id"])
        assert job["state"] == "succeeded" and job["frames"]["done"] == 300
        assert peak() - before < 40, "MB"


def test_a_spool_has_one_daemon(tmp_path, tiny_model):
    with Daemon(tiny_model, tmp_path / "spool"):
        with pytest.raises(AssertionError, match="spool"):
            Daemon(tiny_model, tmp_path / "spool")
