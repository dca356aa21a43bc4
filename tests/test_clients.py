"""One behaviour of all clients: clients/python, clients/c by its command, clients/js in a browser."""
from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess

import numpy as np
import pytest

import masks
from browser import Browser
from conftest import BUILD, TV3S
from daemon import PATIENCE, Daemon
from live import client, labels, rgb
from proxy import Proxy
from test_webhooks import SECRET, Receiver
from test_webhooks import flags as webhook_flags
from tv3s_client import JobFailed, Tv3sError

SIZE, COUNT, SEED = (64, 96), 60, 11  # of the frames: height and width, how many, which
PICTURE = 64 * 96 * 3 + 46            # bytes that one of them is on the wire


@pytest.fixture(scope="module")
def proxy():
    with Proxy() as p:
        yield p


@pytest.fixture(scope="module")
def receiver():
    with Receiver(200) as r:
        yield r


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory, proxy, receiver):
    """All clients are told that its WebSocket is at the proxy."""
    folder = tmp_path_factory.mktemp("clients")
    secret = folder / "secret"
    secret.write_text("whsec_" + base64.b64encode(SECRET).decode())
    with Daemon(tiny_model, folder / "spool", "--ws-url", f"ws://127.0.0.1:{proxy.port}",
                *webhook_flags(secret, receiver.host)) as d:
        proxy.target = d.ws_port
        yield d


@pytest.fixture(scope="module")
def clip(tmp_path_factory, frames) -> str:
    return masks.video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames[:12], "-c:v", "libx264", "-pix_fmt", "yuv420p")


class Python:
    """Masks come as {number: labels}."""

    def __init__(self, daemon, folder):
        self.client, self.daemon = client(daemon), daemon

    def upload(self, video: str, format: str) -> bytes:
        job = self.client.upload(video, format=format)
        try:
            return self.client.download(self.client.wait(job))
        finally:
            self.client.delete(job)

    def warning(self, video: str) -> str | None:
        return self.client.wait(self.client.upload(video)).warning

    def send(self, video: str, webhook: str) -> None:
        self.client.upload(video, webhook=webhook)

    def stream(self, id: str, frames: np.ndarray) -> dict[int, np.ndarray]:
        return {a.seq: labels(a) for a in self.client.resuming(id, lambda n: map(rgb, frames[n:]), format="raw",
                                                               attempts=200, pause=0.01)}

    def save(self, id: str) -> bytes:
        return self.client.save_state(id)

    def restore(self, id: str, state: bytes) -> None:
        self.client.restore_state(id, state)

    def refused(self, id: str) -> tuple[int, str]:
        with pytest.raises(Tv3sError) as e:
            self.client.delete_stream(id)
        return e.value.status, e.value.type

    def failure(self, video: bytes, folder) -> str:
        with pytest.raises(JobFailed) as e:
            self.upload(video, "png")
        return str(e.value)


class C:
    def __init__(self, daemon, folder):
        self.daemon, self.folder = daemon, folder
        self.env = {**os.environ, "TV3S_URL": f"http://127.0.0.1:{daemon.http_port}", "no_proxy": "*"}

    def run(self, *words, status=0) -> subprocess.CompletedProcess:
        done = subprocess.run([os.path.join(BUILD, "tv3s-client"), *map(str, words)], env=self.env, capture_output=True,
                              text=True, timeout=PATIENCE)
        assert done.returncode == status, (done.stdout[-1000:], done.stderr)
        return done

    def start(self, *words, stderr=subprocess.DEVNULL) -> subprocess.Popen:
        return subprocess.Popen([os.path.join(BUILD, "tv3s-client"), *map(str, words)], env=self.env,
                                stdout=subprocess.DEVNULL, stderr=stderr)

    def upload(self, video: str, format: str) -> bytes:
        said = self.run("upload", video, "--format", format, "-o", self.folder / "result", "--json").stdout
        assert json.loads(said.splitlines()[-1])["state"] == "succeeded"
        return (self.folder / "result").read_bytes()

    def warning(self, video: str) -> str | None:
        """To who reads it and to a script, in the same words."""
        done = self.run("upload", video, "-o", self.folder / "result", "--json")
        warning = json.loads(done.stdout.splitlines()[-1]).get("warning")
        assert done.stderr == (f"tv3s-client upload: warning: {video}: {warning}\n" if warning else "")
        return warning

    def send(self, video: str, webhook: str) -> None:
        job, = self.run("upload", video, "--webhook", webhook).stdout.splitlines()
        assert self.daemon.json(job)["webhook"] == webhook

    def stream(self, id: str, frames: np.ndarray) -> dict[int, np.ndarray]:
        nut = masks.video(self.folder / "frames.nut", frames, "-c:v", "rawvideo", "-pix_fmt", "rgb24")
        return self.stream_file(id, nut, "pictures")

    def stream_words(self, id: str, path: str) -> list:
        return ["stream", path, "--id", id, "--format", "raw", "--resume", "--json", "-o", self.folder / id]

    def stream_file(self, id: str, path: str, kind: str, *more) -> dict[int, np.ndarray]:
        said = self.run(*self.stream_words(id, path), *more).stdout
        events = [json.loads(line) for line in said.splitlines()]
        assert events[-1]["as"] == kind
        answered = [e["seq"] for e in events if e["event"] == "answer"]
        assert events[-1]["answered"] == len(answered)
        assert events[-1]["dropped"] == sum(e["event"] in ("unanswered", "dropped") for e in events)
        written = self.written(id)
        return {seq: written[seq] for seq in answered}

    def written(self, id: str) -> dict[int, np.ndarray]:
        return {int(n.split(".")[0]): np.fromfile(self.folder / id / n, np.uint8).reshape(SIZE)
                for n in os.listdir(self.folder / id) if n[0] != "."}

    def save(self, id: str) -> bytes:
        self.run("save", id, self.folder / "state")
        return (self.folder / "state").read_bytes()

    def restore(self, id: str, state: bytes) -> None:
        (self.folder / "state").write_bytes(state)
        self.run("restore", id, self.folder / "state")

    def refused(self, id: str) -> tuple[int, str]:
        said = self.run("delete", id, status=1).stderr
        status, kind = said.rsplit("(", 1)[1].strip(")\n").split(", ")
        return int(status), kind

    def failure(self, video: bytes, folder) -> str:
        (folder / "broken").write_bytes(video)
        return self.run("upload", folder / "broken", "-o", folder / "none", status=1).stderr


class Js:
    STREAM = """
    const [id, frames, width, height] = arguments;
    window.run = {masks: {}, ended: false};
    const stream = document.tv3s.client.openStream(id, {format: "raw", resend: true});
    const next = (name) => new Promise((resolve) => stream.addEventListener(name, resolve, {once: true}));
    stream.addEventListener("mask", ({detail}) => { run.masks[detail.seq] = btoa(String.fromCharCode(...detail.labels)); });
    stream.addEventListener("closed", ({detail}) => { run.ended = detail.reason + detail.words; });
    const settled = () => Promise.race(["mask", "dropped", "failed", "open", "closed"].map(next));
    next("open").then(async ({detail}) => {
        const {KIND} = await import("/tv3s.js");
        for (const frame of frames.slice(detail.last_seq + 1)) {
            while (stream.free <= 0)
                await settled();
            const bytes = Uint8Array.from(atob(frame), (c) => c.charCodeAt(0));
            stream.send(bytes, {kind: KIND.rgb24, width, height});
        }
        while (stream.inFlight > 0)
            await settled();
        stream.end();
    });"""

    def __init__(self, daemon, folder, page):
        self.page, self.folder = page, folder
        page.open(daemon)

    def ask(self, code: str, *args):
        """What the promise of `code` gives, with `client` and `args`; or the problem that it is refused with."""
        self.page.js("window.out = null; const args = arguments, client = document.tv3s.client;"
                     f"(async () => {{ {code} }})().then((value) => {{ out = {{value}}; }},"
                     "({message, status, type}) => { out = {message, status, type}; });", *args)
        return self.page.wait("window.out")

    def upload(self, video: str, format: str) -> bytes:
        with open(video, "rb") as f:
            data = f.read()
        out = self.ask("""
            const bytes = Uint8Array.from(atob(args[0]), (c) => c.charCodeAt(0));
            const job = await client.upload(new Blob([bytes]), {format: args[1]});
            const end = await new Promise((resolve) => client.watch(job.id, () => {}, resolve));
            if (end.state !== "succeeded")
                throw new Error(end.error.detail);
            const result = await client.request("GET", end.masks);
            window.result = new Uint8Array(await result.arrayBuffer());
            await client.removeVideo(job.id);""", base64.b64encode(data).decode(), format)
        assert "message" not in out, out["message"]
        return self.page.bytes("result")

    def warning(self, video: str) -> str | None:
        with open(video, "rb") as f:
            out = self.ask("""
                const bytes = Uint8Array.from(atob(args[0]), (c) => c.charCodeAt(0));
                const {id} = await client.upload(new Blob([bytes]));
                const {warning} = await new Promise((resolve) => client.watch(id, () => {}, resolve));
                return warning;""", base64.b64encode(f.read()).decode())
        return out["value"]

    def send(self, video: str, webhook: str) -> None:
        with open(video, "rb") as f:
            out = self.ask("""await client.upload(new Blob([Uint8Array.from(atob(args[0]), (c) => c.charCodeAt(0))]), {webhook: args[1]})""",
                           base64.b64encode(f.read()).decode(), webhook)
        assert "message" not in out, out

    def stream(self, id: str, frames: np.ndarray) -> dict[int, np.ndarray]:
        texts = [base64.b64encode(f.tobytes()).decode() for f in frames]
        self.page.js(self.STREAM, id, texts, SIZE[1], SIZE[0])
        assert self.page.wait("run.ended") == "end"
        return {int(seq): np.frombuffer(base64.b64decode(text), np.uint8).reshape(SIZE)
                for seq, text in self.page.get("run.masks").items()}

    def save(self, id: str) -> bytes:
        self.ask("window.state = new Uint8Array(await client.saveState(args[0]))", id)
        return self.page.bytes("state")

    def restore(self, id: str, state: bytes) -> None:
        out = self.ask("await client.restoreState(args[0], Uint8Array.from(atob(args[1]), (c) => c.charCodeAt(0)))", id,
                       base64.b64encode(state).decode())
        assert "message" not in out, out

    def refused(self, id: str) -> tuple[int, str]:
        out = self.ask("await client.removeStream(args[0])", id)
        return out["status"], out["type"].rsplit("/", 1)[-1]

    def failure(self, video: bytes, folder) -> str:
        (folder / "broken").write_bytes(video)
        with pytest.raises(AssertionError) as e:
            self.upload(folder / "broken", "png")
        return str(e.value)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("chromium")) as b:
        yield b


@pytest.fixture(params=["python", "c", "js"])
def one(request, daemon, tmp_path):
    if request.param == "js":
        return Js(daemon, tmp_path, request.getfixturevalue("chromium"))
    return {"python": Python, "c": C}[request.param](daemon, tmp_path)


def name(one, what: str) -> str:
    return f"{what}-{type(one).__name__}"


@contextlib.contextmanager
def cut_twice(daemon, proxy, id: str, first: int, second: int):
    """The next connection breaks after so many bytes that its client sent, and the one after it."""
    for count in (first, second):
        proxy.after(count, proxy.cut)
    yield
    assert proxy.planned == []
    assert daemon.json(f"/v1/streams/{id}")["frames"] == COUNT


def assert_masks(got: dict[int, np.ndarray], expected: np.ndarray, first=0) -> None:
    assert sorted(got) == list(range(first, len(expected)))
    assert [seq for seq in got if (got[seq] != expected[seq]).any()] == []


@pytest.mark.parametrize("format", ["raw", "png", "rle"])
def test_an_upload_gives_what_the_tool_gives(one, tiny_model, clip, tmp_path, format):
    out = tmp_path / {"raw": "masks.raw", "png": "masks.zip", "rle": "masks.jsonl"}[format]
    subprocess.run([TV3S, "segment", tiny_model, clip, "-o", out, "--format", format], check=True, capture_output=True)
    assert one.upload(clip, format) == out.read_bytes()


def test_the_end_of_an_upload_is_told_to_whom_it_names(one, daemon, receiver, clip):
    url = f"{receiver.url}&who={name(one, 'a%20b')}"        # it needs escaping
    one.send(clip, url)
    told = json.loads(receiver.next().body)["job"]
    assert told["webhook"] == url and told["state"] == "succeeded"
    assert daemon.json("/v1/videos/" + told["id"]) == told


def test_a_stream_gives_what_the_tool_gives(one, frames, expected):
    assert_masks(one.stream(name(one, "stream"), frames), expected)


def test_a_stream_goes_on_where_it_was_left(one, frames, expected):
    assert_masks(one.stream(name(one, "left"), frames[:20]), expected[:20])
    assert_masks(one.stream(name(one, "left"), frames), expected, first=20)


def test_a_connection_that_breaks_is_made_again(one, daemon, proxy, frames, expected):
    """No frame is applied twice and none is passed over: all masks are those of a stream that was never cut. Those of
    frames that were applied when it broke may be missing."""
    id = name(one, "broken")
    with cut_twice(daemon, proxy, id, 8 * PICTURE, 12 * PICTURE):
        got = one.stream(id, frames)
    assert COUNT - 2 * 4 <= len(got) and COUNT - 1 in got
    assert [seq for seq in got if (got[seq] != expected[seq]).any()] == []


def test_a_saved_state_goes_on_in_another_stream(one, daemon, frames, expected):
    one.stream(name(one, "saved"), frames[:10])
    one.restore(name(one, "restored"), one.save(name(one, "saved")))
    got = one.stream(name(one, "restored"), frames[10:20])
    assert_masks(got, expected[10:20])


def test_a_refusal_says_what_kind_it_is(one):
    assert one.refused("nobody") == (404, "not-found")


def test_what_is_missing_of_a_video_is_said(one, clip, tmp_path):
    cut = tmp_path / "cut.mkv"
    masks.ffmpeg("-i", clip, "-c", "copy", cut)
    cut.write_bytes(cut.read_bytes()[:cut.stat().st_size * 8 // 10])
    assert one.warning(str(cut)).startswith("the file is cut off: ")
    assert one.warning(clip) is None


def test_what_is_no_video_fails_in_the_servers_words(one, tmp_path):
    assert "neither a video nor an image" in one.failure(b"Dear daemon,\n" * 100, tmp_path)
