"""The daemon under load, beside what the engine does alone in the same run. Prints JSON; `make load` runs it.

    load.py [--rounds N] [--out FILE] [--idle N] [SCENARIO ...]

A fresh daemon serves the bundled model; everything goes to 127.0.0.1, bounded in count and time. Each scenario runs
once a round, round after round, so that a slow minute of the machine meets all of them; `median` is over the rounds,
`met` says whether the median keeps the bar. Idle connections, and memory while streams come and go, are counted once.
"""
from __future__ import annotations

import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../..")
sys.path[:0] = [os.path.join(HERE, "..")]
from conftest import BUILD, TV3S  # noqa: E402
from daemon import Daemon  # noqa: E402

MODEL, CLIP, SIZE = os.path.join(ROOT, "models/street.safetensors"), os.path.join(ROOT, "models/street.mp4"), "256x160"
STREAM_LOAD = os.path.join(BUILD, "load/stream_load")
SECONDS = 5          # what is counted of a scenario
LOOPS = 6            # the clip so often is the uploaded video
FULL = 24            # streams that fill every batch of 16
TURN, TURNS = 200, 24  # streams that come and go at a time; how often

# scenario: figure, at least or at most, bar
BARS = {"live": ("ratio", ">=", 0.85), "upload": ("ratio", ">=", 0.85), "single": ("ratio", "<=", 1.0),
        "flood": ("p99_factor", "<", 2.0), "mixed": ("upload_share", ">=", 0.04), "sandbox": ("cost", "<=", 0.05),
        "idle": ("silent", "<=", 0), "turnover": ("grown", "<=", 1.2)}


class Load:
    def __init__(self, daemon: Daemon, folder: str, **to):
        """`to`: where streams go, if not straight to the daemon: port, ca."""
        self.daemon, self.folder, self.to = daemon, folder, {"port": daemon.ws_port, **to}
        self.video = os.path.join(folder, "clip.mp4")
        ffmpeg = ["ffmpeg", "-v", "error", "-y"]
        subprocess.run([*ffmpeg, "-stream_loop", str(LOOPS - 1), "-i", CLIP, "-c", "copy", self.video], check=True)
        subprocess.run([*ffmpeg, "-i", CLIP, "-q:v", "3", os.path.join(folder, "%03d.jpg")], check=True)
        self.images = sorted(glob.glob(os.path.join(folder, "*.jpg")))

    # ---- what loads
    def start(self, **options) -> subprocess.Popen:
        """stream_load; `flood=True` becomes --flood."""
        flags = [f"--{k}" if v is True else f"--{k}={v}" for k, v in {**self.to, **options}.items()]
        return subprocess.Popen([STREAM_LOAD, *flags, *self.images],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @staticmethod
    def report(process: subprocess.Popen) -> dict:
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0, process.args[:8]
        return json.loads(out.splitlines()[-1])

    def end(self, process: subprocess.Popen) -> dict:
        """The report of a load without errors."""
        report = self.report(process)
        assert not report["errors"], report
        return report

    def streams(self, prefix="load", **options) -> dict:
        """The report of a load. Its streams are deleted."""
        report = self.end(self.start(prefix=prefix, **options))
        self.forget(prefix)
        return report

    def forget(self, prefix: str) -> None:
        c = self.daemon.connect()
        for s in self.daemon.json("/v1/streams")["streams"]:
            if s["id"].startswith(prefix + "-"):
                c.request("DELETE", "/v1/streams/" + s["id"])
                c.getresponse().read()
        c.close()

    def post_video(self) -> str:
        with open(self.video, "rb") as f:
            r = self.daemon.request("POST", "/v1/videos?format=png", f, Content_Type="video/mp4",
                                    Content_Length=str(os.path.getsize(self.video)))
        assert r.status == 202, r.body
        return "/v1/videos/" + r.json()["id"]

    def resident(self) -> int:
        with open(f"/proc/{self.daemon.process.pid}/status") as f:
            return 1024 * next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))

    # ---- what is compared with
    @staticmethod
    def bench(streams: int) -> dict:
        out = subprocess.run([TV3S, "bench", MODEL, "--size", SIZE, "--streams", str(streams), "--frames",
                              str(max(40, 600 // streams))], check=True, capture_output=True)
        return json.loads(out.stdout)

    def video_fps(self) -> float:
        """Of one upload, from its first byte to its end."""
        begun = time.monotonic()
        path = self.post_video()
        self.daemon.get(path + "/events")   # which end with the job
        seconds = time.monotonic() - begun
        job = self.daemon.json(path)
        assert job["state"] == "succeeded", job
        self.daemon.request("DELETE", path)
        return job["frames"]["done"] / seconds

    # ---- scenarios
    def live(self) -> dict:
        alone = self.bench(16)
        load = self.streams(streams=16, seconds=SECONDS)
        return {"bench_fps": alone["frames_per_second"], "fps": load["frames_per_second"],
                "ratio": load["frames_per_second"] / alone["frames_per_second"],
                "p50_ms": load["latency_ms"]["p50"], "p99_ms": load["latency_ms"]["p99"],
                "stage_p50_ms": {k: v["p50"] for k, v in load["stage_ms"].items()}}

    def upload(self) -> dict:
        out = subprocess.run([TV3S, "segment", MODEL, self.video, "-o", os.path.join(self.folder, "masks.zip"),
                              "--quiet", "--json"], check=True, capture_output=True)
        alone, fps = json.loads(out.stdout)["fps"], self.video_fps()
        return {"segment_fps": alone, "fps": fps, "ratio": fps / alone}

    def single(self) -> dict:
        alone = self.bench(1)["ms_per_frame"]["p50"]
        load = self.streams(streams=1, credit=1, seconds=SECONDS)
        decode, encode = load["stage_ms"]["decode"]["p50"], load["stage_ms"]["encode"]["p50"]
        allowed = 1.3 * alone + decode + encode
        return {"engine_ms": alone, "decode_ms": decode, "encode_ms": encode, "allowed_ms": allowed,
                "p50_ms": load["latency_ms"]["p50"], "p99_ms": load["latency_ms"]["p99"],
                "ratio": load["latency_ms"]["p50"] / allowed}

    def flood(self) -> dict:
        """Eight streams at 30 % of what the engine does; then beside one client that sends without end."""
        rate = 0.3 * self.bench(16)["frames_per_second"] / 8
        calm = self.streams(streams=8, rate=rate, seconds=SECONDS, prefix="calm")
        flood = self.start(streams=1, flood=True, seconds=SECONDS, warmup=2, prefix="flood")
        beside = self.streams(streams=8, rate=rate, seconds=SECONDS, prefix="beside")
        flood = self.end(flood)
        self.forget("flood")
        return {"rate": rate, "p99_ms": calm["latency_ms"]["p99"], "flooded_p99_ms": beside["latency_ms"]["p99"],
                "p50_ms": calm["latency_ms"]["p50"], "flooded_p50_ms": beside["latency_ms"]["p50"],
                "p99_factor": beside["latency_ms"]["p99"] / calm["latency_ms"]["p99"],
                "flood_answered_fps": flood["frames_per_second"], "flood_dropped": flood["dropped"]}

    def mixed(self) -> dict:
        """Live streams that fill every batch, then beside an upload."""
        alone = self.streams(streams=FULL, credit=2, seconds=SECONDS, prefix="alone")
        path = self.post_video()
        load = self.start(streams=FULL, credit=2, seconds=SECONDS, prefix="beside")
        time.sleep(1.5)
        begun, done = time.monotonic(), self.daemon.json(path)["frames"]["done"]
        time.sleep(SECONDS - 1)
        job = self.daemon.json(path)
        fps = (job["frames"]["done"] - done) / (time.monotonic() - begun)
        assert job["state"] == "running", job
        load = self.end(load)
        self.daemon.request("DELETE", path)
        self.forget("beside")
        return {"live_alone_fps": alone["frames_per_second"], "live_alone_p99_ms": alone["latency_ms"]["p99"],
                "live_fps": load["frames_per_second"], "live_p99_ms": load["latency_ms"]["p99"], "upload_fps": fps,
                "upload_share": fps / (fps + load["frames_per_second"])}

    def sandbox(self) -> dict:
        """Frames a second in decoding processes, and in a second daemon that decodes in itself, in turns."""
        out, own = {}, self.daemon
        with Daemon(MODEL, os.path.join(self.folder, "plain"), "--sandbox=false") as plain:
            for name, self.daemon in (("", own), ("plain_", plain)):
                out[name + "live_fps"] = self.streams(streams=16, seconds=3, prefix="sandbox")["frames_per_second"]
            for name, self.daemon in (("plain_", plain), ("", own)):
                out[name + "upload_fps"] = self.video_fps()
        return {**out, "live": out["live_fps"] / out["plain_live_fps"], "upload": out["upload_fps"] / out["plain_upload_fps"],
                "cost": 1 - min(out["live_fps"] / out["plain_live_fps"], out["upload_fps"] / out["plain_upload_fps"])}

    def idle(self, count: int) -> dict:
        """`count` streams with a state and no connection, and as many connections with a state, all at once."""
        self.streams(streams=FULL, seconds=1)   # what batches need is there before we count
        base = self.resident()
        self.hold(count, "left").communicate("", timeout=60)
        streams = self.resident()
        held = self.hold(count, "held")
        connections = self.resident()
        state = self.daemon.metric("tv3sd_state_bytes") / (2 * count)
        open_ones = self.daemon.metric('tv3sd_connections{protocol="ws"}')
        beside = self.end(self.start(streams=4, rate=10, seconds=3, prefix="beside"))
        held.stdin.write("go on\n")
        held.stdin.flush()
        again = self.end(held)
        left = self.hold(count, "left")
        left = json.loads(left.communicate("", timeout=60)[0].splitlines()[-1])
        silent = 2 * count - (again["answered"] - count) - left["answered"]
        for prefix in ("left", "held", "beside"):
            self.forget(prefix)
        return {"streams": count, "connections": open_ones, "resident_mb": connections / 1e6,
                "state_bytes": state, "bytes_per_stream": (streams - base) / count,
                "bytes_per_connection": (connections - streams) / count, "silent": silent,
                "p99_ms_beside": beside["latency_ms"]["p99"], "resident_after_mb": self.resident() / 1e6}

    def turnover(self) -> dict:
        """Memory of a new daemon while streams come and go: so many new ones of a frame each, deleted, over and over."""
        daemon, held = self.daemon, []
        with Daemon(MODEL, os.path.join(self.folder, "turnover")) as self.daemon:
            self.to["port"] = self.daemon.ws_port
            for _ in range(TURNS):
                self.hold(TURN, "turn").communicate("", timeout=60)
                self.forget("turn")
                held.append(self.resident())
        self.daemon, self.to["port"] = daemon, daemon.ws_port
        return {"streams": TURN * TURNS, "resident_first_mb": held[0] / 1e6, "resident_last_mb": held[-1] / 1e6,
                "resident_most_mb": max(held) / 1e6, "grown": max(held) / held[0]}

    def hold(self, count: int, prefix: str) -> subprocess.Popen:
        """Connections that had one frame answered each."""
        p = self.start(streams=count, frames=1, credit=1, prefix=prefix)
        assert p.stdout.readline() == "idle\n", p.poll()
        return p


def median(values: list):
    if isinstance(values[0], dict):
        return {k: median([v[k] for v in values]) for k in values[0]}
    return statistics.median(values)


def met(name: str, figures: dict) -> bool:
    key, how, bar = BARS[name]
    return {">=": figures[key] >= bar, "<=": figures[key] <= bar, "<": figures[key] < bar}[how]


def machine() -> str:
    with open("/proc/cpuinfo") as f:
        name = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "unknown")
    return f"{os.cpu_count()} cores of {name}"


def main() -> int:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--idle", type=int, default=2000)
    a.add_argument("--out")
    a.add_argument("scenarios", nargs="*", help=", ".join(BARS))
    a = a.parse_args()
    names = a.scenarios or list(BARS)
    rounds: dict = {n: [] for n in names}
    # All idle streams send their one frame at once: beyond queue_max they would be refused.
    flags = ["--queue-max", max(1024, 2 * a.idle)]
    with tempfile.TemporaryDirectory() as folder, Daemon(MODEL, os.path.join(folder, "spool"), *flags) as daemon:
        load = Load(daemon, folder)
        for i in range(a.rounds):
            for n in names:
                if n in ("idle", "turnover") and i > 0:
                    continue
                figures = load.idle(a.idle) if n == "idle" else getattr(load, n)()
                rounds[n].append(figures)
                print(f"round {i + 1}: {n}: {json.dumps(figures)}", file=sys.stderr, flush=True)
    report = {"machine": machine(), "scenarios": {}}
    for n in names:
        m = median(rounds[n])
        report["scenarios"][n] = {"bar": " ".join(map(str, BARS[n])), "met": met(n, m), "median": m, "rounds": rounds[n]}
    text = json.dumps(report, indent=1)
    print(text)
    if a.out:
        with open(a.out, "w") as f:
            f.write(text + "\n")
    return 0 if all(s["met"] for s in report["scenarios"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
