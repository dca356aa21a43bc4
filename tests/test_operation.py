"""The daemon as those who run it see it: settings, signals, systemd, several models, logs."""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

import cases
from conftest import HERE, SANITIZED, TV3S
from daemon import PATIENCE, TV3SD, Daemon
from live import client, labels, rgb, tool_masks

MODELS = os.path.join(HERE, "../models/street.safetensors")
CLIP = os.path.join(HERE, "../models/street.mp4")


def tv3sd(*args, **env) -> subprocess.CompletedProcess:
    return subprocess.run([TV3SD, *map(str, args)], capture_output=True, text=True, timeout=PATIENCE,
                          env={**os.environ, **env})


# ---------------------------------------------------------------------------------------------------- settings
def test_check_opens_the_models_and_ends(tiny_model, tmp_path):
    assert "event=model_opened" in tv3sd("--model", tiny_model, "--check").stderr
    assert tv3sd("--model", tiny_model, "--check").returncode == 0
    (tmp_path / "bad.safetensors").write_bytes(b"\0" * 100)
    broken = tv3sd("--model", tmp_path / "bad.safetensors", "--check")
    assert broken.returncode == 2 and "event=failed" in broken.stderr
    (tmp_path / "c.json").write_text('{"batch_max": 0}')
    wrong = tv3sd("--config", tmp_path / "c.json", "--check")
    assert wrong.returncode == 2 and "batch_max" in wrong.stderr and "c.json" in wrong.stderr


@pytest.mark.parametrize("flags, why", [
    ("--listen 0.0.0.0", "open_access"), ("--listen nowhere", "listen address nowhere"),
    ("--http-port 8080 --ws-port 8080", "both 8080"), ("--keys-file none.json", "none.json: No such file"),
    ("--keys-file brace.json", "brace.json, line "), ("--tls-certificate none.pem", "go together"),
    ("--tls-certificate none.pem --tls-key none.key", "none.pem"), ("--webhook-hosts x.org", "webhook_secret_file"),
    ("--webhook-hosts 10.0.0.0/8 --webhook-ca-file none.pem", "webhook_ca_file, none.pem"),
    ("--trusted-proxies foo", "'foo' is no network"), ("--state-store foo", "none or redis"),
    ("--state-store redis --redis-password-file none", "redis_password_file"), ("--isa foo", "'tiny'.*foo"),
    ("--device tpu", "device 'tpu'"), ("--model none.safetensors", "none.safetensors"), ("--log-level loud", "loud"),
    ("--spool /proc/none", "cannot make /proc/none: Op"), ("--spool none/spool", "cannot make none/spool: No such file"),
    ("--spool brace.json", "Not a directory"), ("--config none.json", "unable to open none.json: No such file"),
    ("--webhook-hosts a.test:1/", "is no network"), ("--webhook-hosts=a.test b.test", "'a.test b.test' is no host"),
    ('--webhook-hosts=["a.test:1"]', "without quotes"), ("--batch-max 0", "--batch-max: 0 is"),
    ("--cors-origins a.test", "'a.test' is no origin"), ("--cors-origins https://a.test/", "'https://a.test/' is no or"),
    ("--cors-origins *,https://A.test", "'https://A.test' is no origin"),
], ids=str)
def test_check_refuses_what_a_start_refuses(tiny_model, tmp_path, monkeypatch, flags, why):
    """By the same words and with 2, after which systemd does not try again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "brace.json").write_text("{")
    flags = [flags] if "=" in flags else flags.split()
    plain = ["--models", f"tiny={tiny_model}", "--http-port", 0, "--ws-port", 0, "--spool", tmp_path / "s"]
    done = [tv3sd(*plain, *flags, *more) for more in ((), ("--check",))]
    said = [re.search("event=failed error=(.*)", d.stderr)[1] for d in done]
    assert [d.returncode for d in done] == [2, 2] and said[0] == said[1]
    assert re.search(why, said[0].replace('\\"', '"')), said


def test_check_leaves_nothing_behind_and_takes_no_port(tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "a") as d:
        there = ("--http-port", d.http_port, "--ws-port", d.ws_port)
        done = tv3sd("--model", tiny_model, *there, "--spool", tmp_path / "b", "--check")
        assert done.returncode == 0 and not (tmp_path / "b").exists(), done.stderr
        assert tv3sd("--model", tiny_model, *there, "--spool", tmp_path / "a", "--check").returncode == 0


def test_a_short_h_asks_for_help():
    assert tv3sd("-h").stdout == tv3sd("--help").stdout != ""


def test_what_is_dumped_starts_the_same_daemon(tiny_model, tmp_path):
    dump = tv3sd("--model", tiny_model, "--dump-config", "--max-image", "2M", TV3SD_STREAM_LINGER="7.5")
    settings = json.loads(dump.stdout)
    assert dump.returncode == 0 and settings["max_image"] == 2 << 20 and settings["stream_linger"] == 7.5
    assert settings["models"] == [tiny_model]
    (tmp_path / "c.json").write_text(dump.stdout)
    assert json.loads(tv3sd("--config", tmp_path / "c.json", "--dump-config").stdout) == settings


def test_a_busy_port_is_named(tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "a") as d:
        for flag, port in (("--http-port", d.http_port), ("--ws-port", d.ws_port)):
            ports = ("--http-port", 0, "--ws-port", 0, flag, port)
            other = tv3sd("--model", tiny_model, "--spool", tmp_path / "b", *ports)
            assert other.returncode == 1 and f"port {port}" in other.stderr and "cannot listen" in other.stderr


def test_a_second_daemon_on_a_spool_is_told_what_to_do(tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "s"):
        other = tv3sd("--model", tiny_model, "--http-port", 0, "--ws-port", 0, "--spool", tmp_path / "s")
        assert other.returncode == 1 and f"the spool {tmp_path / 's'} is another daemon's" in other.stderr
        assert "--spool" in other.stderr


@pytest.mark.parametrize("parent, temporary", [("/tmp", True), ("/dev/shm", True), ("/var/tmp", False)])
def test_a_spool_that_a_restart_empties_is_told(tiny_model, parent, temporary):
    with tempfile.TemporaryDirectory(dir=parent) as folder, Daemon(tiny_model, folder + "/spool") as d:
        assert ("event=spool_is_temporary" in d.log()) == temporary, d.log()


def test_a_video_is_no_model(tmp_path):
    refused = tv3sd("--model", f"film={CLIP}", "--check")
    assert refused.returncode == 2 and "not a safetensors file" in refused.stderr and "bytes" not in refused.stderr


def test_every_connection_may_hold_an_upload(tiny_model, tmp_path):
    most = 400
    flags = ("--http-connections", most, "--ws-connections", 1)
    with Daemon(tiny_model, tmp_path / "s", *flags) as d:
        uploads = [d.connect() for _ in range(most - 1)]
        for c in uploads:
            c.putrequest("POST", "/v1/videos")
            c.putheader("Content-Length", "10")
            c.endheaders(b"12345")
        d.wait_for(lambda: len(d.json("/v1/videos")["videos"]) == len(uploads))
        for c in uploads:
            c.send(b"67890")
        assert {c.getresponse().status for c in uploads} == {202}


# ----------------------------------------------------------------------------------------------------- threads
def threads_of(daemon) -> dict[str, list[tuple[set[int], int]]]:
    """By name: the cores that each may run on, and how nice it is."""
    found: dict[str, list] = {}
    for tid in map(int, os.listdir(f"/proc/{daemon.process.pid}/task")):
        with open(f"/proc/{daemon.process.pid}/task/{tid}/comm") as f:
            found.setdefault(f.read().strip(), []).append(
                (os.sched_getaffinity(tid), os.getpriority(os.PRIO_PROCESS, tid)))
    return found


def test_the_engines_threads_have_a_core_each_and_stand_behind_the_others(tiny_model, tmp_path):
    cores, nice = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    count = 1 if SANITIZED else len(cores)   # ThreadSanitizer cannot see how OpenMP's threads meet
    with Daemon(tiny_model, tmp_path / "spool", "--threads", count) as d:
        assert d.get("/readyz").status == 200
        threads = threads_of(d)
    engine = threads.pop("engine")
    assert len(engine) == count
    if count == len(cores):
        assert sorted(min(its) for its, _ in engine) == sorted(cores) and all(len(its) == 1 for its, _ in engine)
    else:
        assert all(its == cores for its, _ in engine)
    assert all(more == nice + 5 for _, more in engine)
    assert {"worker", "ws", "http"} <= threads.keys()
    assert all(its == cores and more == nice for of_name in threads.values() for its, more in of_name)


def test_an_engine_with_fewer_threads_than_cores_may_move(tiny_model, tmp_path):
    cores = os.sched_getaffinity(0)
    with Daemon(tiny_model, tmp_path / "spool", "--threads", 1) as d:
        assert d.get("/readyz").status == 200
        assert [its for its, _ in threads_of(d)["engine"]] == [cores]


# ----------------------------------------------------------------------------------------------------- signals
def test_sighup_takes_over_what_can_be(tiny_model, tmp_path):
    config = tmp_path / "c.json"
    config.write_text(json.dumps({"max_streams": 1}))
    with Daemon(tiny_model, tmp_path / "s", "--config", config) as d:
        assert d.request("PUT", "/v1/streams/a").status == 201
        assert d.request("PUT", "/v1/streams/b").status == 503
        config.write_text(json.dumps({"max_streams": 2, "max_image": 5000, "log_level": "debug"}))
        d.process.send_signal(signal.SIGHUP)
        assert "max_image" in d.wait_log(r"event=reloaded ignored=(.*)")[1]
        assert d.request("PUT", "/v1/streams/b").status == 201
        config.write_text('{"max_streams": "many"}')
        d.process.send_signal(signal.SIGHUP)
        assert "max_streams" in d.wait_log(r"event=reload_failed error=(.*)")[1]
        assert d.request("PUT", "/v1/streams/c").status == 503                     # two, as it was


def test_a_drain_ends_in_bounded_time(tiny_model, tmp_path):
    """An upload that never goes on, and a stream whose client does not read, hold nobody up."""
    with Daemon(tiny_model, tmp_path / "s", "--drain-seconds", "1") as d:
        with socket.create_connection(("127.0.0.1", d.http_port)) as s, client(d).stream("idle"):
            s.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10)
            assert d.stop() == 0


# ----------------------------------------------------------------------------------------------------- systemd
def test_systemd_is_told(tiny_model, tmp_path, monkeypatch):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(path)
        s.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", str(PATIENCE * 10 ** 6))
        with Daemon(tiny_model, tmp_path / "s") as d:
            assert s.recv(100) == b"READY=1"
            assert s.recv(100) == s.recv(100) == b"WATCHDOG=1"
            assert d.stop() == 0
        told = s.recv(100)
        while told == b"WATCHDOG=1":
            told = s.recv(100)
        assert told == b"STOPPING=1"


# ------------------------------------------------------------------------------------------------------ models
def test_models_are_served_by_name(tiny_model, tmp_path, picture):
    """Each kind of session, of each model, has the masks of `tv3s segment` with that model."""
    (tmp_path / "p.png").write_bytes(picture)
    models = {"tiny": tiny_model, "street": MODELS}
    expected = {}
    for name, path in models.items():
        subprocess.run([TV3S, "segment", path, tmp_path / "p.png", "-o", tmp_path / f"{name}.raw"], check=True,
                       capture_output=True)
        expected[name] = (tmp_path / f"{name}.raw").read_bytes()
    assert expected["tiny"] != expected["street"]
    with Daemon(f"street={MODELS}", tmp_path / "s", "--model", tiny_model) as d:
        c = client(d)
        assert [m["name"] for m in c.models()] == ["street", "tiny"] and c.ready()
        for name in models:
            assert c.segment(picture, model=name, format="raw").data == expected[name]
            c.open_stream(f"http-{name}", model=name, format="raw")
            assert c.frame(f"http-{name}", picture).data == expected[name]
            with c.stream(f"ws-{name}", model=name, format="raw") as s:
                assert s.hello["model"] == name and [a.data for a in s.masks([picture])] == [expected[name]]
            job = c.wait(c.upload(picture, model=name, format="raw"))
            assert c.download(job) == expected[name] and job.raw["model"] == name
        assert c.segment(picture, format="raw").data == expected["street"]           # the first is the default
        state = c.save_state("http-tiny")
        with pytest.raises(Exception, match="another model"):
            c.restore_state("http-street", state)


# ------------------------------------------------------------------------------------------------------ states
def test_states_beyond_the_device_spill_and_come_back(tiny_model, tmp_path):
    """Five streams take turns where two fit; each has the masks of `tv3s logits`."""
    frames = [cases.frames((256, 384), 4, seed) for seed in range(5)]
    expected = [tool_masks(tiny_model, f, tmp_path) for f in frames]
    flags = ("--max-state-bytes", "1M", "--spill-idle", "0")
    with Daemon(tiny_model, tmp_path / "s", *flags) as d:
        c = client(d)
        for t in range(4):
            for i in range(5):
                with c.stream(f"s{i}", format="raw") as s:
                    assert [(labels(a) == expected[i][t]).all() for a in s.masks([rgb(frames[i][t])])] == [True]
                assert d.metric("tv3sd_state_bytes") <= 1 << 20
        streams = c.streams()
        spilled = [s for s in streams if s["spilled"]]
        assert len(streams) == 5 and 1 <= len(spilled) < 5
        assert len({s["state_bytes"] for s in streams}) == 1                      # wherever it is
        assert d.metric("tv3sd_spilled_bytes") == sum(s["state_bytes"] for s in spilled)
        assert d.metric("tv3sd_streams_spilled_total") - d.metric("tv3sd_streams_fetched_total") == len(spilled)
        assert d.metric("tv3sd_streams_fetched_total") >= 9
        before = c.save_state(spilled[0]["id"])
        assert c.describe(spilled[0]["id"])["spilled"]
        c.open_stream("copy")
        c.restore_state("copy", before)
        assert c.save_state("copy") == before
        for s in [*streams, {"id": "copy"}]:
            c.delete_stream(s["id"])
        end = time.monotonic() + PATIENCE
        while d.metric("tv3sd_state_bytes") + d.metric("tv3sd_spilled_bytes") and time.monotonic() < end:
            time.sleep(0.01)
        assert d.metric("tv3sd_state_bytes") == d.metric("tv3sd_spilled_bytes") == 0


# ------------------------------------------------------------------------------------------------------ metrics
def test_metrics_have_every_stage_of_a_frame(tiny_model, tmp_path, picture):
    """As Prometheus' own parser reads them, after one frame of each kind."""
    with Daemon(tiny_model, tmp_path / "s") as d:
        c = client(d)
        with c.stream("live") as s:
            assert len(list(s.masks([picture]))) == 1
        c.segment(picture)
        c.wait(c.upload(picture))
        families = {f.name: f for f in text_string_to_metric_families(c.metrics())}
        assert d.get("/metrics").headers["Content-Type"].startswith("text/plain; version=0.0.4")
    ok = {s.labels["kind"]: s.value for s in families["tv3sd_frames"].samples if s.labels["outcome"] == "ok"}
    assert ok == {"live": 1, "single": 1, "upload": 1}
    counts = {s.labels["stage"]: s.value for s in families["tv3sd_stage_seconds"].samples if s.name.endswith("_count")}
    assert set(counts) == {"decode", "queue", "engine", "encode", "send"}
    assert all(counts[stage] >= 2 for stage in counts)
    assert {s.labels["stage"] for s in families["tv3sd_queue_depth"].samples} == {"decode", "engine", "encode"}
    assert {s.labels["reason"] for s in families["tv3sd_dropped"].samples} == {"oldest", "newest", "overload", "drain", "rate"}
    assert {s.labels["state"] for s in families["tv3sd_streams"].samples} == {"active", "idle", "spilled"}
    values = {n: families[n].samples[0].value for n in
              ("tv3sd_batches", "tv3sd_batch_frames", "tv3sd_batch_occupancy", "tv3sd_engine_gflops",
               "tv3sd_state_bytes", "tv3sd_spilled_bytes", "tv3sd_streams_spilled", "tv3sd_streams_expired")}
    assert values["tv3sd_batches"] >= 1 and values["tv3sd_batch_frames"] == 3
    assert values["tv3sd_engine_gflops"] > 0 and 0 < values["tv3sd_batch_occupancy"] <= 1
    assert values["tv3sd_state_bytes"] > 0 and values["tv3sd_streams_expired"] == 0


# -------------------------------------------------------------------------------------------------------- logs
def fields(line: str) -> dict:
    """One line of logfmt."""
    found = re.findall(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|\S+)(?: |$)', line)
    assert " ".join(f"{k}={v}" for k, v in found) == line.strip()
    return dict(found)


def test_a_log_line_is_an_event_with_its_request_and_stream(tiny_model, tmp_path, picture):
    with Daemon(tiny_model, tmp_path / "s", "--log-level", "debug") as d:
        d.request("PUT", "/v1/streams/cam-7", X_Request_Id="open-1")
        d.request("POST", "/v1/streams/cam-7/frames", picture, X_Request_Id="frame-1")
        d.request("POST", "/v1/streams/cam-7/frames", b"bad \"quotes\"\n", X_Request_Id="frame-2")
        r = d.request("POST", "/v1/videos", picture, X_Request_Id="upload-1")
        d.finish(r.json()["id"])
        d.request("GET", '/no%0Asuch"path=x"', X_Request_Id="odd")
        d.wait_log("request=odd")
    lines = [fields(line) for line in d.log().splitlines()]
    assert all({"ts", "level", "event"} <= set(line) for line in lines)
    by_request = {line["request"]: line for line in lines if line["event"] == "http"}
    assert by_request["open-1"]["stream"] == by_request["frame-1"]["stream"] == "cam-7"
    assert by_request["frame-2"]["status"] == "415" and by_request["frame-2"]["stream"] == "cam-7"
    assert by_request["upload-1"]["job"] == r.json()["id"]
    assert [line["stream"] for line in lines if line["event"] == "stream_opened"] == ["cam-7"]


def test_a_spool_is_restored_from_its_copy(tiny_model, tmp_path):
    """As docs/operating.md says: stopped, copied whole, put elsewhere."""
    with Daemon(tiny_model, tmp_path / "a") as d:
        job = d.upload(CLIP, "?format=raw")
        masks = d.get(f"/v1/videos/{job['id']}/masks").body
    shutil.copytree(tmp_path / "a", tmp_path / "backup")
    shutil.rmtree(tmp_path / "a")
    shutil.copytree(tmp_path / "backup", tmp_path / "b")
    with Daemon(tiny_model, tmp_path / "b") as d:
        assert d.json(f"/v1/videos/{job['id']}") == job
        assert d.get(f"/v1/videos/{job['id']}/masks").body == masks and masks


def test_who_is_connected_at_a_stop_is_answered(tmp_path, tiny_model):
    """Those that wait to be accepted and those that have not asked yet; with others knocking meanwhile."""
    seen, over = [], threading.Event()

    def ask(s: socket.socket) -> bytes:
        with s:
            try:
                s.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return s.makefile("rb").read()
            except OSError as e:
                return repr(e).encode()

    def knock():
        while not over.is_set():
            s = socket.socket()
            s.settimeout(PATIENCE)
            try:
                s.connect(("127.0.0.1", d.http_port))
            except OSError:
                return  # refused: that is an answer too
            seen.append(ask(s))

    with Daemon(tiny_model, tmp_path / "spool") as d:
        waiting = [socket.create_connection(("127.0.0.1", d.http_port), PATIENCE) for _ in range(20)]
        threads = [threading.Thread(target=knock) for _ in range(4)]
        for t in threads:
            t.start()
        d.wait_for(lambda: len(seen) > 100)
        d.process.send_signal(signal.SIGTERM)
        d.wait_log("event=draining")
        seen += map(ask, waiting)
        assert d.process.wait(PATIENCE) == 0
        over.set()
        for t in threads:
            t.join()
    assert [a for a in seen if not a.startswith(b"HTTP/1.1 200 ")] == []
