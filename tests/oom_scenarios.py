"""What the clients do while allocations fail (oom.py)."""
from __future__ import annotations

import base64
import gzip
import http.client
import io
import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import cases
import masks
from conftest import TV3S
from daemon import PATIENCE, TV3SD, Answer, Daemon
from keys import bearer, new_key
from live import Frame, client, labels, rgb, tool_masks
from test_webhooks import SECRET, Receiver
from test_webhooks import flags as webhook_flags
from test_ws_packets import packets_of
from tv3s_client import ConnectionLost, Failed, FrameFailed, Tv3sError

SIZE = (64, 96)


class Wrong(Exception):
    """Neither the right answer nor an error."""


class Material:
    """What is sent, and what is to come back."""

    def __init__(self, model: str, folder: Path):
        self.model, self.folder = model, folder
        self.frames = cases.frames(SIZE, 3, 11)
        self.pngs = []
        for f in self.frames:
            out = io.BytesIO()
            Image.fromarray(f).save(out, "PNG")
            self.pngs.append(out.getvalue())
        (folder / "tool").mkdir()
        self.stream = tool_masks(model, self.frames, folder / "tool")
        self.single = tool_masks(model, self.frames, folder / "tool", "frame")
        clip = masks.video(folder / "clip.mkv", cases.frames(SIZE, 4, 5), "-c:v", "ffv1")
        self.clip = Path(clip).read_bytes()
        subprocess.run([TV3S, "segment", model, clip, "-o", folder / "clip.raw", "--format", "raw"], check=True, capture_output=True)
        stream = masks.video(folder / "clip.h264", self.frames, "-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "1", "-bf", "0",
                             "-threads", "1", "-tune", "zerolatency", "-x264-params", "aud=1:log-level=none:sliced-threads=0")
        self.packets = packets_of(stream)
        (folder / "packets").mkdir()
        self.packet_masks = tool_masks(model, masks.decoded(stream, "rgb24", (*SIZE, 3)), folder / "packets")
        self.clip_masks = np.fromfile(folder / "clip.raw", np.uint8).reshape(4, *SIZE)


def parsed(r: Answer) -> dict:
    try:
        return r.json()
    except ValueError as e:
        raise Wrong(f"no JSON: {r.body[:300]!r}") from e


def error_of(r: Answer) -> str:
    """An error's type: one that says that the server is to blame."""
    if r.status < 500:
        raise Wrong(f"{r.status} {r.body[:300]!r}")
    if r.headers["Content-Type"] != "application/problem+json":
        raise Wrong(f"{r.status} {r.body[:300]!r}")
    return f"{r.status} {parsed(r)['type']}"


def ask(d: Daemon, method: str, path: str, body=None, **headers) -> Answer:
    try:
        return d.request(method, path, body, **headers)
    except (http.client.HTTPException, ConnectionError) as e:
        raise Wrong(f"no answer: {type(e).__name__}") from e


def finish(d: Daemon, job: str) -> dict:
    """The job when it has ended, which may be told at the second time."""
    while True:
        r = ask(d, "GET", f"/v1/videos/{job}")
        if r.status == 200 and r.json()["state"] not in ("queued", "running"):
            return r.json()
        time.sleep(0.02)


def same(got, want) -> str:
    if got != want:
        raise Wrong(f"another answer: {got[:300]!r}")
    return "right"


class Scenario:
    flags: tuple = ()
    disarm: Callable[[], None]  # nothing fails from here on

    def __init__(self, material: Material):
        self.m = material

    def prepare(self, d: Daemon) -> None:
        """Before each time; here nothing fails."""


class Segment(Scenario):
    """An image, its mask."""

    def act(self, d: Daemon) -> str:
        r = ask(d, "POST", "/v1/segment?format=raw", self.m.pngs[1])
        return same(r.body, self.m.single[1].tobytes()) if r.status == 200 else error_of(r)


class Form(Scenario):
    """The same in a form, with its mask compressed JSON."""

    def act(self, d: Daemon) -> str:
        body = b'---x-\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + self.m.pngs[1] + b"\r\n---x---\r\n"
        r = ask(d, "POST", "/v1/segment?format=rle", body, Content_Type="multipart/form-data; boundary=-x-", Accept_Encoding="gzip")
        if r.status != 200:
            return error_of(r)
        text = gzip.decompress(r.body) if r.headers["Content-Encoding"] == "gzip" else r.body
        return same(masks.rle(json.loads(text)).tobytes(), self.m.single[1].tobytes())


class StreamFrames(Scenario):
    """A stream over HTTP: one request may fail, is sent again where its effect is not there, and all goes on."""

    def prepare(self, d: Daemon) -> None:
        d.request("DELETE", "/v1/streams/s")

    def act(self, d: Daemon) -> str:
        first = None
        steps = [("PUT", "/v1/streams/s?format=raw", None), *(("POST", "/v1/streams/s/frames", p) for p in self.m.pngs),
                 ("DELETE", "/v1/streams/s", None)]
        for i, (method, path, body) in enumerate(steps):
            r = ask(d, method, path, body)
            if r.status >= 500:
                first = first or error_of(r)
                if r.headers["X-Tv3s-Applied"]:
                    continue
                r = ask(d, method, path, body)
            if method == "POST" and r.status == 200:
                same(r.body, self.m.stream[i - 1].tobytes())
            elif r.status not in (200, 201, 204):
                raise Wrong(f"{method}: {r.status} {r.body!r}")
        return first or "right"


class Looks(Scenario):
    """Everything that tells of something."""
    paths = ("/v1/models", "/v1/models/tiny", "/v1/server", "/v1/streams", "/v1/streams/s", "/v1/videos", "/livez", "/readyz",
             "/openapi.json", "/", "/v1/nothing")

    def prepare(self, d: Daemon) -> None:
        d.request("PUT", "/v1/streams/s")
        self.wanted = {p: self.plain(d.get(p)) for p in self.paths}

    def plain(self, r: Answer) -> object:
        def still(o):
            if isinstance(o, dict):
                return {k: still(v) for k, v in o.items() if k not in ("idle", "request_id")}
            return [still(v) for v in o] if isinstance(o, list) else o
        return (r.status, still(parsed(r))) if "json" in r.headers["Content-Type"] else (r.status, r.body)

    def act(self, d: Daemon) -> str:
        first = None
        for path in self.paths:
            r = ask(d, "GET", path)
            if r.status >= 500:
                first = first or error_of(r)
            else:
                same(self.plain(r), self.wanted[path])
        r = ask(d, "GET", "/metrics")
        if r.status >= 500:
            first = first or error_of(r)
        else:
            assert b"\ntv3sd_http_requests_total" in r.body and r.body.endswith(b"\n")
        return first or "right"


class State(Scenario):
    """A stream's state, out, and into another stream, which goes on with it."""

    def prepare(self, d: Daemon) -> None:
        d.request("DELETE", "/v1/streams/b")
        for name in "ab":
            d.request("PUT", f"/v1/streams/{name}?format=raw")
        if not d.json("/v1/streams/a")["frames"]:
            d.request("POST", "/v1/streams/a/frames", self.m.pngs[0])
            self.state = d.get("/v1/streams/a/state").body

    def act(self, d: Daemon) -> str:
        first = None
        steps = [("GET", "a/state", None), ("PUT", "b/state", self.state), ("POST", "b/reset", None), ("PUT", "b/state", self.state),
                 ("POST", "b/frames", self.m.pngs[1])]
        for method, path, body in steps:
            r = ask(d, method, "/v1/streams/" + path, body)
            if r.status >= 500:
                first = first or error_of(r)
                if r.headers["X-Tv3s-Applied"]:
                    continue
                r = ask(d, method, "/v1/streams/" + path, body)
            if r.status not in (200, 204):
                raise Wrong(f"{method}: {r.status} {r.body!r}")
            if path == "a/state":
                same(r.body, self.state)
            if path == "b/frames":
                same(r.body, self.m.stream[1].tobytes())
        return first or "right"


class Socket(Scenario):
    """Frames and messages over WebSocket. What is refused, fails or is closed says why; the state stays in order."""

    def frames(self) -> list[Frame]:
        return [Frame.image(self.m.pngs[0]), rgb(self.m.frames[1]), Frame.image(self.m.pngs[2])]

    def wanted(self) -> np.ndarray:
        return self.m.stream

    def prepare(self, d: Daemon) -> None:
        d.request("DELETE", "/v1/streams/w")

    def act(self, d: Daemon) -> str:
        first, frames, at = None, self.frames(), 0
        while at < len(frames):
            try:
                with client(d).stream("w", format="raw") as s:
                    at = s.last_seq + 1
                    s.stats()
                    while at < len(frames):
                        at += self.one(s, frames, at)
            except FrameFailed as e:
                assert e.problem["status"] >= 500, e.problem
                first = first or f"failed {e.problem['type']}"
            except Tv3sError as e:
                assert e.problem["status"] >= 500, e.problem
                first = first or f"refused {e.problem['type']}"
            except ConnectionLost as e:
                first = first or f"closed {e.code} {e.reason}"
                if e.code in (None, 1006) or len(first) > 400:
                    raise Wrong(first) from e
        return first or "right"

    def one(self, s, frames: list[Frame], at: int) -> int:
        s.send(frames[at])
        answer = next(s.events())
        if isinstance(answer, Failed):
            raise FrameFailed(answer.seq, answer.problem)
        same(labels(answer).tobytes(), self.wanted()[answer.seq].tobytes())
        return 1


class Upload(Scenario):
    """A video, followed by its events to the end; all of its result."""


    def prepare(self, d: Daemon) -> None:
        for v in d.json("/v1/videos")["videos"]:
            d.request("DELETE", "/v1/videos/" + v["id"])

    def act(self, d: Daemon) -> str:
        r = ask(d, "POST", "/v1/videos?format=raw", self.m.clip)
        if r.status != 202:
            return error_of(r)
        job = r.json()["id"]
        assert r.headers["Location"] == f"/v1/videos/{job}"
        first = None
        r = ask(d, "GET", f"/v1/videos/{job}/events")
        if r.status == 200:
            assert b"event: end\n" in r.body, r.body[-500:]
        else:
            first = error_of(r)
        state = finish(d, job)
        if state["state"] == "failed":
            assert state["error"]["status"] >= 500, state
            return f"job failed {state['error']['type']}"
        assert state["state"] == "succeeded", state
        for path, want in ((f"/v1/videos/{job}/masks", self.m.clip_masks.tobytes()),
                           (f"/v1/videos/{job}/masks/2", self.m.clip_masks[2].tobytes())):
            r = ask(d, "GET", path)
            if r.status >= 500:
                first = first or error_of(r)
            else:
                same(r.body, want)
        r = ask(d, "GET", f"/v1/videos/{job}/masks", Range="bytes=7-99")
        if r.status >= 500:
            first = first or error_of(r)
        else:
            assert r.status == 206 and r.headers["Content-Range"], r.headers
            same(r.body, self.m.clip_masks.tobytes()[7:100])
        r = ask(d, "GET", f"/v1/videos/{job}/masks", Accept_Encoding="gzip")
        if r.status >= 500:
            first = first or error_of(r)
        else:
            text = gzip.decompress(r.body) if r.headers["Content-Encoding"] == "gzip" else r.body
            same(text, self.m.clip_masks.tobytes())
        r = ask(d, "DELETE", f"/v1/videos/{job}")
        if r.status >= 500:
            first = first or error_of(r)
            r = ask(d, "DELETE", f"/v1/videos/{job}")
        assert r.status == 204, r.body
        d.wait_for(lambda: not d.folders())
        return first or "right"


class Told(Upload):
    """An upload whose end somebody is told of. Once it has ended he is, whatever fails."""

    def __init__(self, material: Material):
        super().__init__(material)
        self.receiver = Receiver(200).__enter__()
        secret = material.folder / "secret"
        secret.write_text("whsec_" + base64.b64encode(SECRET).decode())
        self.flags = webhook_flags(secret, self.receiver.host)

    def told(self, job: str) -> dict:
        """A delivery may come twice."""
        while (body := json.loads(self.receiver.next().body)["job"])["id"] != job:
            pass
        return body

    def act(self, d: Daemon) -> str:
        r = ask(d, "POST", "/v1/videos?format=raw&webhook=" + self.receiver.url, self.m.clip)
        if r.status != 202:
            return error_of(r)
        ended = finish(d, r.json()["id"])
        same(self.told(ended["id"]), ended)
        if ended["state"] == "failed":
            assert ended["error"]["status"] >= 500, ended
            return f"job failed {ended['error']['type']}"
        return "right"


class Packets(Socket):
    """Packets of a codec, each a key frame."""

    def frames(self) -> list[Frame]:
        return [Frame.packet(p, "h264", key_frame=True) for p in self.m.packets]

    def wanted(self) -> np.ndarray:
        return self.m.packet_masks


class Reload(Scenario):
    """SIGHUP with another key file: the new keys, or the old ones and a word why."""

    def __init__(self, material: Material):
        super().__init__(material)
        self.file = material.folder / "keys.json"
        self.key = new_key(self.file, "a")
        self.one = self.file.read_bytes()
        self.other = new_key(self.file, "b")
        self.two = self.file.read_bytes()
        self.file.write_bytes(self.one)
        self.flags = ("--keys-file", self.file)

    def reload(self, d: Daemon) -> bool:
        def said() -> list[str]:
            return re.findall(r"event=(keys|keys_failed) ", d.log())
        before = len(said())
        d.process.send_signal(signal.SIGHUP)
        d.wait_for(lambda: len(said()) > before)
        return said()[-1] == "keys"

    def prepare(self, d: Daemon) -> None:
        self.file.write_bytes(self.one)
        assert self.reload(d) and self.status(d, self.other) == 401

    def status(self, d: Daemon, key: str) -> int:
        return d.get("/v1/streams", **bearer(key)).status

    def act(self, d: Daemon) -> str:
        self.file.write_bytes(self.two)
        changed = self.reload(d)
        self.disarm()
        assert (self.status(d, self.key), self.status(d, self.other)) == (200, 200 if changed else 401), changed
        return "right" if changed else "the old keys stay"


class Left:
    """What a daemon that was killed left behind: an upload with half of its masks."""

    def __init__(self, model: str, folder: Path, material: Material, memory):
        self.model, self.folder, self.memory = model, folder / "start", memory
        self.folder.mkdir()
        clip = masks.video(self.folder / "clip.mkv", cases.frames((160, 224), 24, 5), "-c:v", "ffv1")
        raw = self.folder / "clip.raw"
        subprocess.run([TV3S, "segment", model, clip, "-o", raw, "--format", "raw"], check=True, capture_output=True)
        self.wanted = raw.read_bytes()
        self.config = self.folder / "tv3sd.json"
        self.config.write_text(json.dumps({"job_checkpoint": 0, "models": [model], "drain_seconds": 5}))
        with Daemon(model, self.folder / "left", "--job-checkpoint", "0") as d:
            self.job = d.upload(clip, "?format=raw", wait=False)["id"]
            d.wait_for(lambda: d.json("/v1/videos/" + self.job)["frames"]["done"] >= 2)
            d.process.kill()
            d.process.wait()

    def spool(self, n: int) -> Path:
        """A copy of it."""
        return Path(shutil.copytree(self.folder / "left", self.folder / f"spool-{n}"))

    def start(self, spool: Path, log: Path) -> str:
        with open(log, "w") as f:
            process = subprocess.Popen([TV3SD, "--config", self.config, "--http-port", "0", "--ws-port", "0", "--spool", spool],
                                       stdin=subprocess.DEVNULL, stderr=f, env=self.memory.environment)
        try:
            return self.follow(process, log)
        finally:
            process.kill()
            process.wait()

    def follow(self, process: subprocess.Popen, log: Path) -> str:
        d = Daemon.__new__(Daemon)
        d.process, d.log_path, d.key, d.host = process, str(log), None, "127.0.0.1"
        while process.poll() is None and not (ready := re.search(r"event=ready .*http=(\d+)", d.log())):
            time.sleep(0.01)
        if process.poll() is not None:
            why = "event=failed error=" in d.log()
            if process.returncode not in (1, 2) or not why:
                raise Wrong(f"status {process.returncode}: {d.log()[-2000:]}")
            return "does not start: it says why"
        d.http_port = int(ready[1])
        job = finish(d, self.job)
        if job["state"] == "failed" and job["error"]["status"] >= 500:
            answer = f"job failed {job['error']['type']}"
        else:
            self.memory.disarm()
            answer = same(d.get(f"/v1/videos/{self.job}/masks").body, self.wanted)
        process.terminate()
        if process.wait(PATIENCE):
            raise Wrong(f"status {process.returncode}: {d.log()[-2000:]}")
        return answer


SCENARIOS = [Segment, Form, StreamFrames, Looks, State, Socket, Packets, Upload, Told, Reload]
