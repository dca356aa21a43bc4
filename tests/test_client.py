"""The Python client's HTTP half, against the real daemon. Streams are in test_ws.py."""
from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

import cases
import masks
from conftest import CLASSES, PALETTE
from daemon import PATIENCE, Daemon
from live import async_client, client
from tv3s_client import Client, JobFailed, ProtocolError, Tv3sError

SIZE, COUNT = (64, 96), 6


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory):
    with Daemon(tiny_model, tmp_path_factory.mktemp("spool") / "s") as d:
        yield d


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return masks.video(tmp_path_factory.mktemp("clip") / "clip.mp4", cases.frames(SIZE, COUNT, 5), "-c:v", "libx264",
                       "-pix_fmt", "yuv420p")


def test_upload_wait_download(daemon, clip, tmp_path):
    c = client(daemon)
    sent, seen, got = [], [], []
    job = c.upload(clip, progress=lambda *p: sent.append(p))
    done = c.wait(job, progress=seen.append)
    assert done.done == done.total == COUNT and seen[-1].ended and sent[-1][0] == sent[-1][1] > 0
    c.download(job, tmp_path / "masks.zip", progress=lambda *p: got.append(p))
    assert got[-1][0] == got[-1][1] == (tmp_path / "masks.zip").stat().st_size
    assert c.download(job.id) == (tmp_path / "masks.zip").read_bytes()
    frames = masks.zipped(tmp_path / "masks.zip", PALETTE)
    assert (masks.png(c.mask(job, 2), PALETTE) == frames[2]).all() and len(frames) == COUNT
    assert [j.id for j in c.jobs()] == [job.id] and c.job(job).state == "succeeded"
    c.delete(job)
    assert c.jobs() == []


def test_waiting_for_events_can_be_cancelled(daemon, clip):
    uploading = daemon.connect()
    uploading.putrequest("POST", "/v1/videos")
    uploading.putheader("Content-Length", "100000")
    uploading.endheaders(open(clip, "rb").read(1000))
    daemon.wait_for(lambda: client(daemon).jobs())
    job = client(daemon).jobs()[0]

    async def run():
        seen = asyncio.Event()

        async def watch():
            async for _ in async_client(daemon).events(job):
                seen.set()
        watching = asyncio.create_task(watch())
        await seen.wait()
        watching.cancel()  # the job does not change while its upload stands still
        with pytest.raises(asyncio.CancelledError):
            await watching
    asyncio.run(run())
    uploading.close()
    daemon.wait_for(lambda: not client(daemon).jobs())


def test_uploads_come_from_files_of_unknown_size_and_from_bytes(daemon, clip):
    c = client(daemon)
    data = open(clip, "rb").read()

    class Pipe(io.RawIOBase):
        source = io.BytesIO(data)

        def read(self, n=-1):
            return self.source.read(min(n, 1000))

    results = [c.download(c.wait(c.upload(v, format="raw"))) for v in (Pipe(), data)]
    assert results[0] == results[1] and len(results[0]) == COUNT * SIZE[0] * SIZE[1]


def test_what_goes_wrong_here_is_not_taken_for_the_servers(daemon, clip, tmp_path):
    """A full disk and a caller's own error come as they are, at once; a file is whole or as it was."""
    c = client(daemon)
    job = c.upload(clip)

    def no(*_):
        raise BrokenPipeError("nobody reads this")
    with pytest.raises(BrokenPipeError, match="nobody reads this"):
        c.wait(job, progress=no)
    c.wait(job)
    with pytest.raises(OSError) as e:
        c.download(job, "/dev/full")
    assert e.value.errno == errno.ENOSPC
    there = tmp_path / "masks.zip"
    for before in (b"", b"as it was"):
        if before:
            there.write_bytes(before)
        with pytest.raises(BrokenPipeError):
            c.download(job, there, progress=no)
        assert [p.read_bytes() for p in tmp_path.iterdir()] == [before] * bool(before)
    c.download(job, there)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [c.download(job)]
    c.delete(job)


@pytest.mark.parametrize("answer, error", [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", ConnectionError),
    (b"HTTP/1.1 200 OK\r\nContent-Le", ProtocolError), (b"SSH-2.0-OpenSSH_9.2\r\n", ConnectionError),
    (b"", ConnectionError),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", ProtocolError),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", ProtocolError),
    (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>", Tv3sError)])
def test_what_is_no_tv3sd_is_an_error_of_a_kind(answer, error):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve():
            with listener.accept()[0] as s:
                listener.close()  # the client looks whether TLS is spoken there
                asked = b""
                while not asked.endswith(b"\r\n\r\n"):
                    asked += s.recv(65536)
                s.sendall(answer)
        url = "http://127.0.0.1:%d" % listener.getsockname()[1]
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(error):
            Client(url, timeout=PATIENCE).server()
        thread.join()


def test_what_is_no_video_fails_with_the_servers_reason(daemon):
    with pytest.raises((JobFailed, Tv3sError)) as e:
        c = client(daemon)
        c.wait(c.upload(b"not a video" * 100))
    assert 400 <= e.value.status < 500 and e.value.problem["title"]


def test_images_and_streams_over_http(daemon, picture):
    c = client(daemon)
    mask = c.segment(picture, format="raw")
    assert mask.size == SIZE[::-1] and len(mask.data) == SIZE[0] * SIZE[1]
    c.open_stream("http", format="raw")
    first = c.frame("http", picture)
    assert first.seq == 0 and first.data == mask.data
    state = c.save_state("http")
    second = c.frame("http", picture).data
    c.restore_state("http", state)
    assert c.frame("http", picture).data == second
    c.reset("http")
    assert c.frame("http", picture).data == first.data
    assert c.describe("http")["frames"] == 4 and "http" in [s["id"] for s in c.streams()]
    c.delete_stream("http")
    with pytest.raises(Tv3sError) as e:
        c.describe("http")
    assert (e.value.status, e.value.type) == (404, "not-found") and e.value.problem["request_id"]


def test_the_server_describes_itself(daemon):
    c = client(daemon)
    assert c.ready() and "tv3sd_frames_total" in c.metrics()
    assert [k["name"] for k in c.model(c.models()[0]["name"])["classes"]] == CLASSES


def test_the_same_with_asyncio(daemon, clip, picture):
    async def run():
        c = async_client(daemon)
        sent, seen = [], []
        job = await c.upload(clip, format="raw", progress=lambda *p: sent.append(p))
        async for now in c.events(job):
            seen.append(now)
        assert sent[-1][0] == sent[-1][1] and seen[-1].ended and seen[-1].done == COUNT
        async for now in c.events(job):
            break                                              # the rest is not wanted
        job = await c.wait(job, timeout=100)
        result, mask = await asyncio.gather(c.download(job), c.segment(picture, format="raw"))
        await c.delete(job)
        assert await c.ready() and (await c.model((await c.models())[0]["name"]))["classes"]
        await c.open_stream("async", format="raw")
        first = await c.frame("async", picture)
        state = await c.save_state("async")
        second = await c.frame("async", picture)
        await c.restore_state("async", state)
        assert (await c.frame("async", picture)).data == second.data and first.data == mask.data
        await c.delete_stream("async")
        return result, mask
    result, mask = asyncio.run(run())
    assert np.frombuffer(result, np.uint8).size == COUNT * mask.size[0] * mask.size[1]


def test_uploads_do_without_the_package_for_streams(daemon, clip, tmp_path):
    """As under a python3 that does not have it."""
    code = f"""if 1:
        import sys
        sys.modules["websockets"] = None                       # importing it raises ImportError
        from tv3s_client import Client
        c = Client("http://127.0.0.1:{daemon.http_port}", timeout={PATIENCE})
        assert c.wait(c.upload({str(clip)!r})).done == {COUNT}
        try:
            c.stream("cam-7").open()
        except ImportError as e:
            print(e)"""
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                          capture_output=True, text=True, timeout=PATIENCE)
    assert "python3-websockets" in done.stdout, done.stderr


@pytest.mark.parametrize("frames, kind", [(["frame.png"], "str"), (b"\x89PNG", "int")])
def test_what_is_no_frame_is_called_that(daemon, frames, kind):
    """A path, and one file's bytes where a list of them is wanted."""
    with client(daemon).stream("none") as stream, pytest.raises(TypeError, match=f"a frame is .* no {kind}"):
        list(stream.masks(frames))


def test_streams_go_where_uploads_do_whatever_proxy_the_environment_has(daemon, picture, monkeypatch):
    """Nobody is at the port of discarding. The newer websockets would ask there."""
    for name in ("http_proxy", "ws_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with client(daemon).stream("proxied") as stream:
        assert [answer.seq for answer in stream.masks([picture])] == [0]
