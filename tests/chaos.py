"""Clients killed at random, under load: nothing of them may stay. `chaos.py --seconds 120 --seed 1` prints JSON.

The daemon of TV3S_BUILD (build/asan by `make chaos`) serves CLIENTS processes that do all kinds of things and do few of
them to the end (chaos_client.py); one after the other is killed by SIGKILL, where it stands, and replaced. Beside them a
well-behaved stream must get every mask, byte for byte. Then all are killed and the daemon is to be as it was before:
no connection, stream, state, queued frame, running job, file, thread or open descriptor more, and its memory bounded.
At its end the sanitizer has the last word on leaks."""
from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "parity")]
import cases  # noqa: E402
import masks  # noqa: E402
from conftest import SANITIZED, make_tiny_model  # noqa: E402
from daemon import TV3SD, Daemon  # noqa: E402
from live import client, labels, rgb, tool_masks  # noqa: E402
from sandbox import children  # noqa: E402

CLIENTS = 12
SETTLE = 120  # seconds that a busy machine may need to come to rest
FLAGS = ("--stream-linger", 2, "--max-state-bytes", 1 << 22, "--jobs-max", 40, "--http-timeout", 10, "--ws-timeout", 10,
         "--http-connections", 256, "--max-frames", 30, "--drain-seconds", 5)
# Freed memory is not kept for long, so that the figures of memory say something.
ASAN = "detect_leaks=1:abort_on_error=0:quarantine_size_mb=8:malloc_context_size=12"


def material(folder: Path) -> None:
    """What the clients send."""
    for name in ("images", "clips", "packets"):
        (folder / name).mkdir()
    for i, size in enumerate(((64, 96), (48, 64), (96, 96))):
        for kind in ("PNG", "JPEG", "WEBP"):
            out = io.BytesIO()
            Image.fromarray(cases.frames(size, 1, i)[0]).save(out, kind)
            (folder / "images" / f"{i}.{kind}").write_bytes(out.getvalue())
    noise = np.random.default_rng(1).integers(0, 255, (10, 64, 96, 3), np.uint8)
    x264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-threads", "1")
    for name, codec in (("a.mp4", x264), ("b.mkv", ("-c:v", "ffv1")), ("c.avi", ("-c:v", "mpeg4")), ("d.mov", ("-c:v", "png"))):
        masks.video(folder / "clips" / name, noise, *codec)
    (folder / "clips" / "junk").write_bytes(b"no video at all" * 6000)
    source = masks.video(folder / "a.h264", cases.frames((64, 96), 12, 9), *x264, "-g", "6", "-bf", "2", "-x264-params", "aud=1")
    units = open(source, "rb").read().split(b"\0\0\0\1\x09")[1:]
    for i, unit in enumerate(units):
        (folder / "packets" / f"{i:03}").write_bytes(b"\0\0\0\1\x09" + unit)


class Bystander(threading.Thread):
    """A stream that behaves, and must not notice the others."""

    def __init__(self, daemon: Daemon, frames: np.ndarray, expected: np.ndarray):
        super().__init__()
        self.daemon_, self.frames, self.expected = daemon, frames, expected
        self.enough, self.masks, self.error = threading.Event(), 0, ""

    def paced(self):
        for frame in self.frames:
            time.sleep(0.02)
            yield rgb(frame)

    def run(self) -> None:
        try:
            with client(self.daemon_).stream("bystander", format="raw") as s:
                while not self.enough.is_set():
                    s.reset()
                    for got, want in zip(s.masks(self.paced(), end=False), self.expected, strict=True):
                        assert (labels(got) == want).all(), f"mask {got.seq} is another"
                        self.masks += 1
        except Exception as e:  # whatever it is, the run has failed
            self.error = f"{type(e).__name__}: {e}"


class Process:
    """What the system says of the daemon."""

    def __init__(self, pid: int):
        self.pid, self.path = pid, f"/proc/{pid}"

    def memory(self) -> int:
        """Resident bytes."""
        with open(self.path + "/status") as f:
            return int(re.search(r"VmRSS:\s*(\d+) kB", f.read())[1]) * 1024

    def descriptors(self) -> int:
        return len(os.listdir(self.path + "/fd"))

    def threads(self) -> int:
        return len(os.listdir(self.path + "/task"))

    def cpu_seconds(self) -> float:
        with open(self.path + "/stat") as f:
            user, system = f.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def decoders(self) -> int:
        """Processes below its own ones, also those that have ended and are not buried."""
        return sum(len(children(p)) for p in children(self.pid))


class Load:
    """The clients, and their killer. Seeded: the same seed has the same clients do the same things, if not at the same time."""

    def __init__(self, daemon: Daemon, folder: Path, seed: int):
        self.daemon, self.folder = daemon, folder
        self.random, self.kills = random.Random(seed), 0
        self.clients = [self.start() for _ in range(CLIENTS)]

    def start(self) -> subprocess.Popen:
        arguments = (self.random.getrandbits(60), self.daemon.http_port, self.daemon.ws_port, self.folder)
        return subprocess.Popen([sys.executable, os.path.join(HERE, "chaos_client.py"), *map(str, arguments)])

    def kill(self, i: int) -> None:
        assert self.clients[i].poll() is None, "a client ended by itself"
        self.clients[i].kill()
        self.clients[i].wait()
        self.kills += 1

    def run(self, seconds: float, each) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self.random.random() * 0.6)
            i = self.random.randrange(CLIENTS)
            self.kill(i)
            self.clients[i] = self.start()
            each()

    def stop(self) -> None:
        for i in range(CLIENTS):
            self.kill(i)


def metrics_in(text: bytes) -> dict[str, float]:
    lines = text.decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def metrics(d: Daemon) -> dict[str, float]:
    return metrics_in(d.get("/metrics").body)


def figures(process: Process) -> dict[str, int]:
    """What must be the same before and after."""
    return {"descriptors": process.descriptors(), "threads": process.threads(), "decoders": process.decoders()}


def settled(process: Process) -> dict[str, int]:
    """Those that stay while nobody asks anything: the daemon closes the last connection after its client."""
    seen = [figures(process)]
    while len(seen) < 10 or seen[-10:] != seen[-1:] * 10:
        time.sleep(0.05)
        seen.append(figures(process))
    return seen[-1]


ZERO_AT_REST = ['tv3sd_connections{protocol="ws"}', "tv3sd_state_bytes",
                *(f'tv3sd_queue_depth{{stage="{s}"}}' for s in ("decode", "engine", "encode")),
                *(f'tv3sd_streams{{state="{s}"}}' for s in ("active", "idle", "spilled")),
                *(f'tv3sd_jobs{{state="{s}"}}' for s in ("queued", "running"))]


def at_rest(d: Daemon, process: Process, before: dict) -> dict:
    """What is still there that should not be."""
    m = metrics(d)
    left = {n: m[n] for n in ZERO_AT_REST if m[n]}
    if m['tv3sd_connections{protocol="http"}'] != 1:  # this one
        left["http connections"] = m['tv3sd_connections{protocol="http"}'] - 1
    left |= {"streams": len(s)} if (s := d.json("/v1/streams")["streams"]) else {}
    left |= {"files": f} if (f := sorted(set(d.folders()) - {v["id"] for v in videos(d)})) else {}
    for name, n in figures(process).items():
        if n != before[name]:
            left[name] = [before[name], n]
    return left


def videos(d: Daemon) -> list[dict]:
    return d.json("/v1/videos")["videos"]


def settle(d: Daemon, process: Process, before: dict) -> dict:
    """Waits for nothing to be left, deletes the videos, and waits for their files to go."""
    end = time.monotonic() + SETTLE
    while (left := at_rest(d, process, before)) and time.monotonic() < end:
        time.sleep(0.2)
    for v in videos(d):
        d.request("DELETE", "/v1/videos/" + v["id"])
    while (files := d.folders()) and time.monotonic() < end:
        time.sleep(0.05)
    return left | ({"files": files} if files else {})


def warm_up(d: Daemon, folder: Path) -> None:
    """What is opened once, at first use, is no leak."""
    for clip in sorted((folder / "clips").iterdir()):
        job = d.upload(str(clip), "?format=overlay")
        d.request("DELETE", "/v1/videos/" + job["id"])
    warm_decoders(d, next((folder / "images").iterdir()).read_bytes(), FLAGS)


def warm_decoders(d: Daemon, image: bytes, flags: tuple = ()) -> None:
    """Each worker has a process of its own for images, from its first on."""
    workers = json.loads(subprocess.check_output([TV3SD, "--dump-config", *map(str, flags)]))["workers"]
    d.wait_for(lambda: d.request("POST", "/v1/segment", image).status == 200 and d.metric("tv3sd_decoders") >= workers)


def run(model: str, folder: Path, seconds: float, seed: int, **env: str) -> dict:
    """`env`: more of the daemon's environment."""
    (folder / "frames").mkdir(parents=True)
    frames = cases.frames((64, 96), 16, 4)
    expected = tool_masks(model, frames, folder / "frames")
    material(folder)
    with Daemon(model, folder / "spool", *FLAGS, env={**os.environ, "ASAN_OPTIONS": ASAN, **env}) as d:
        process = Process(d.process.pid)
        warm_up(d, folder)
        d.wait_for(lambda: d.folders() == [])
        before = {**settled(process), "memory": process.memory()}
        memory, bystander = [], Bystander(d, frames, expected)
        bystander.start()
        load = Load(d, folder, seed)
        load.run(seconds, lambda: memory.append(process.memory()))
        load.stop()
        bystander.enough.set()
        bystander.join()
        left = settle(d, process, before)
        m = metrics(d)
        memory_after = process.memory()
        status = d.stop()
    report = "\n".join(line for line in d.log().splitlines() if not line.startswith("ts="))
    half = len(memory) // 2
    peaks = [max(memory[:half]), max(memory[half:])]
    totals = {n: int(v) for n, v in m.items() if "_total" in n and v}
    result = {
        "seconds": seconds, "seed": seed, "sanitized": SANITIZED, "kills": load.kills,
        "memory_mib": {"before": before["memory"] >> 20, "peak_of_first_half": peaks[0] >> 20,
                       "peak_of_second_half": peaks[1] >> 20, "after": memory_after >> 20},
        "descriptors": before["descriptors"], "threads": before["threads"],
        "bystander": {"masks": bystander.masks, "error": bystander.error},
        "left_behind": left, "exit_status": status, "sanitizer": report[:6000], "totals": totals,
    }
    # The second half may not need much more than the first: what leaks grows.
    result["grows"] = peaks[1] > peaks[0] * 1.25 + (32 << 20)
    result["ok"] = not (left or status or report or bystander.error or not bystander.masks or result["grows"])
    return result


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seconds", type=float, default=120)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(make_tiny_model(Path(folder)), Path(folder) / "run", a.seconds, a.seed)
    print(json.dumps(result, indent=2))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
