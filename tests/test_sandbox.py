"""Decoding processes that die, hang, or are after something: their own video or frame fails, nobody else's does."""
from __future__ import annotations

import asyncio
import base64
import ctypes
import json
import os
import re
import signal
import subprocess
import time
import zlib

import pytest

import cases
import masks
from conftest import HERE, SANITIZED
from daemon import PATIENCE, TV3SD, Daemon
from keys import new_key
from live import Raw, header
from sandbox import alive, children, decoder, decoders, kill, zygote
from test_videos import tool, upload_slowly
from test_ws_packets import CODECS, packets_of

SIZE, COUNT = (64, 96), 14
TIMEOUT = 10 if SANITIZED else 2
DIED = "/problems/decoder-died"


@pytest.fixture
def d(tiny_model, tmp_path):
    """One worker: who waits for a decoder would hold up everybody."""
    with Daemon(tiny_model, tmp_path / "spool", "--workers", "1", "--decode-timeout", TIMEOUT, "--jobs-running", "4") as d:
        yield d


@pytest.fixture(scope="module")
def frames():
    return cases.frames(SIZE, COUNT, 9)


@pytest.fixture(scope="module")
def video(tmp_path_factory, frames):
    """Its index is in front: frames come while it arrives."""
    return masks.video(tmp_path_factory.mktemp("v") / "a.mkv", frames, "-c:v", "ffv1", "-g", "1")


@pytest.fixture(scope="module")
def packets(tmp_path_factory, frames):
    """H.264; the first is a key frame."""
    path = masks.video(tmp_path_factory.mktemp("p") / "a.h264", frames, *CODECS["h264"][0])
    return packets_of(str(path))


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory, frames):
    folder = tmp_path_factory.mktemp("j")
    masks.video(folder / "a.mjpeg", frames[:1], "-c:v", "mjpeg", "-f", "image2", "-update", "1")
    return (folder / "a.mjpeg").read_bytes()


def died(d: Daemon, reason: str) -> float:
    return d.metric(f'tv3sd_decoders_died_total{{reason="{reason}"}}')


def segment(d: Daemon, image: bytes):
    return d.request("POST", "/v1/segment?format=raw", image, Content_Type="image/jpeg")


# ------------------------------------------------------------------------------------------------------- videos
@pytest.mark.parametrize("number, reason", [(signal.SIGKILL, "killed"), (signal.SIGSEGV, "crashed"), (signal.SIGSTOP, "hung")])
def test_a_video_fails_alone_with_its_decoder(d, tiny_model, video, tmp_path, number, reason):
    want = tool(tiny_model, video, tmp_path / "o.jsonl")
    victim = []

    def beside():
        """The decoder waits for bytes, in the middle."""
        victim.append(decoder(d, "video"))
        other = upload_slowly(d, video, "?format=rle", during=lambda: kill(victim[0], number))
        assert other["state"] == "succeeded" and d.get(other["masks"]).body == want
    job = upload_slowly(d, video, "?format=rle", during=beside)
    assert job["state"] == "failed" and job["error"]["type"] == DIED and job["error"]["status"] == 500, job
    assert died(d, reason) == 1 and not alive(victim[0])
    assert re.search(f"event=decoder_died job={job['id']} error=", d.log())
    again = d.upload(video, "?format=rle")
    assert again["state"] == "succeeded" and d.get(again["masks"]).body == want
    d.wait_for(lambda: d.metric("tv3sd_decoders") == 0)


def test_a_video_whose_decoder_hangs_can_be_cancelled(d, video):
    ids = []

    def during():
        pid = decoder(d, "video")
        ids.append(d.json("/v1/videos")["videos"][0]["id"])
        kill(pid, signal.SIGSTOP)
        assert d.request("DELETE", "/v1/videos/" + ids[0]).status in (200, 202, 204)
        d.wait_for(lambda: not alive(pid))
    with pytest.raises(Exception):   # the upload is cut off, or its job is not there
        upload_slowly(d, video, during=during)
    assert died(d, "hung") == 0


# ------------------------------------------------------------------------------------------------------ streams
def packet(i: int, data: bytes) -> bytes:
    return header(i, 4, 1) + data


async def answer(c: Raw):
    """(seq, mask or problem)"""
    message = await c.recv()
    if isinstance(message, bytes):
        return int.from_bytes(message[8:16], "little"), message[48:]
    event = json.loads(message)
    assert event["type"] == "error", event
    return event["seq"], event["problem"]


def test_a_stream_loses_what_its_decoder_had_and_goes_on(d, packets):
    async def run():
        async with Raw(d, "alone?format=raw&mode=frame") as calm:
            alone = []
            for i, p in enumerate(packets):
                await calm.send(packet(i, p))
                alone.append((await answer(calm))[1])
            async with Raw(d, "own?format=raw&mode=frame") as c, Raw(d, "other?format=raw&mode=frame") as other:
                for i in range(3):
                    await c.send(packet(i, packets[i]))
                    assert await answer(c) == (i, alone[i])
                    await other.send(packet(i, packets[i]))
                    assert await answer(other) == (i, alone[i])
                victim = decoders(d, "packets")[1]   # they started in this order: alone, own, other
                kill(victim)
                d.wait_for(lambda: not alive(victim))
                await c.send(packet(3, packets[3]))
                seq, problem = await answer(c)
                assert seq == 3 and problem["type"] == DIED
                for i in range(3, COUNT):
                    await other.send(packet(i, packets[i]))
                    assert await answer(other) == (i, alone[i])
                for i in range(COUNT):   # a new decoder begins with a key frame
                    await c.send(packet(4 + i, packets[i]))
                    assert await answer(c) == (4 + i, alone[i])
                assert len(decoders(d, "packets")) == 3
    asyncio.run(run())
    assert died(d, "killed") == 1 and "event=decoder_died stream=own " in d.log()
    d.wait_for(lambda: d.metric("tv3sd_decoders") == 0)   # connections that end take them along


def test_others_do_not_wait_for_a_stream_whose_decoder_hangs(tiny_model, tmp_path, packets, jpeg):
    async def run(d):
        async with Raw(d, "own?format=raw&mode=frame&credit=4") as c, Raw(d, "other?format=raw&mode=frame") as other:
            await c.send(packet(0, packets[0]))
            first = await answer(c)
            victim = decoder(d, "packets")
            kill(victim, signal.SIGSTOP)
            await c.send(packet(1, packets[1]))
            hung = asyncio.ensure_future(answer(c))
            await other.send(packet(0, packets[0]))
            assert await answer(other) == first
            assert (await asyncio.to_thread(segment, d, jpeg)).status == 200
            assert not hung.done()
            kill(victim)
            seq, problem = await hung
            assert seq == 1 and problem["type"] == DIED
    with Daemon(tiny_model, tmp_path / "s", "--workers", "1", "--decode-timeout", PATIENCE) as d:
        asyncio.run(run(d))
        assert died(d, "killed") == 1


def test_a_stream_whose_decoder_hangs_gets_another(d, packets):
    async def run():
        async with Raw(d, "own?format=raw&mode=frame&credit=4") as c:
            await c.send(packet(0, packets[0]))
            first = await answer(c)
            kill(decoder(d, "packets"), signal.SIGSTOP)
            for i in (1, 2):
                await c.send(packet(i, packets[i]))
            seq, problem = await answer(c)
            assert seq == 1 and problem["type"] == DIED and "in time" in problem["detail"]
            await c.send(packet(3, packets[0]))
            while (last := await answer(c))[0] != 3:   # 2 came to a new decoder, without a key frame
                assert last[0] == 2
            assert last[1] == first[1]
    asyncio.run(run())
    assert died(d, "hung") == 1


def test_others_do_not_wait_while_a_decoder_is_born(d, packets):
    """Two streams need one, and who is to make them sleeps."""
    async def run():
        async with Raw(d, "other?format=raw&mode=frame") as other, Raw(d, "a?format=raw&mode=frame") as a, \
                Raw(d, "b?format=raw&mode=frame") as b:
            await other.send(packet(0, packets[0]))
            first = await answer(other)
            mother = zygote(d)
            kill(mother, signal.SIGSTOP)
            for c in (a, b):
                await c.send(packet(0, packets[0]))
            for i in (1, 2):
                await other.send(packet(i, packets[i]))
                assert (await answer(other))[0] == i
            await other.send(packet(3, packets[0]))
            assert (await answer(other))[1] == first[1]
            assert len(decoders(d, "packets")) == 1   # theirs are not there yet
            kill(mother, signal.SIGCONT)
            for c in (a, b):
                assert await answer(c) == first
            assert zygote(d) == mother
    asyncio.run(run())
    assert "event=decoder_died" not in d.log()


# ------------------------------------------------------------------------------------------------------- images
def test_the_image_after_a_death_gets_a_new_decoder(d, jpeg):
    want = segment(d, jpeg)
    assert want.status == 200
    for _ in range(3):
        kill(decoder(d, "images"))
        r = segment(d, jpeg)
        assert r.status in (200, 500)   # it saw the image, or not
        if r.status == 500:
            assert r.problem() == "decoder-died"
        assert segment(d, jpeg).body == want.body
    started = d.metric("tv3sd_decoders_started_total")
    pid = decoder(d, "images")
    kill(zygote(d))   # and with it all that it started
    d.wait_for(lambda: not alive(pid))
    assert segment(d, jpeg).body == want.body and d.metric("tv3sd_decoders_started_total") > started


def bomb(size: int) -> bytes:
    """A PNG of 64 x 64 whose colour profile unpacks to so many bytes."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    pack = zlib.compressobj(9)
    zeros = b"".join(pack.compress(bytes(1 << 20)) for _ in range(size >> 20)) + pack.flush()
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0\0\0\x40\0\0\0\x40\x08\0\0\0\0") +
            chunk(b"iCCP", b"x\0\0" + zeros) + chunk(b"IDAT", zlib.compress(bytes(65 * 64))) + chunk(b"IEND", b""))


def test_memory_has_an_end(tiny_model, tmp_path, jpeg):
    with Daemon(tiny_model, tmp_path / "s", "--max-pixels", "65536") as d:
        small = segment(d, bomb(1 << 20))
        assert small.status == 200
        r = segment(d, bomb(700 << 20))   # of 264 MB; under a sanitizer there is no limit
        if not SANITIZED:
            assert r.status == 413 and "memory" in r.json()["detail"]
        assert segment(d, jpeg).status == 200


# ------------------------------------------------------------------------------------------------------ secrets
def memory(pid: int):
    """What is in it, mapping by mapping."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as mem:
        for line in maps:
            low, high = (int(x, 16) for x in line.split()[0].split("-"))
            if line.split()[1][0] != "r" or high - low > 1 << 28 or "[v" in line:
                continue
            mem.seek(low)
            try:
                yield mem.read(high - low)
            except OSError:
                pass


def holds(pid: int, secrets: list) -> bool:
    return any(secret in part for part in memory(pid) for secret in secrets)


def links(pid: int) -> set[str]:
    """What its descriptors are."""
    at = f"/proc/{pid}/fd"
    return {re.sub(r"[^a-z/].*", "", os.readlink(f"{at}/{fd}")) for fd in os.listdir(at)}


def test_decoders_hold_nothing_of_the_daemons(tiny_model, tmp_path, jpeg):
    keys, pem, certificate = tmp_path / "keys.json", tmp_path / "key.pem", tmp_path / "cert.pem"
    key = new_key(keys, "operator")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", pem, "-out", certificate,
                    "-days", "2", "-subj", "/CN=localhost"], check=True, capture_output=True)
    lines = [x for x in pem.read_bytes().splitlines() if len(x) == 64]
    secrets = [key.encode(), b"in-the-environment", *lines, *(base64.b64decode(x)[:32] for x in lines[2:])]
    env = dict(os.environ, SECRET_OF_THE_TEST="in-the-environment")
    with Daemon(tiny_model, tmp_path / "s", "--keys-file", keys, "--tls-certificate", certificate, "--tls-key", pem,
                env=env) as d:
        picture = tmp_path / "a.jpg"
        picture.write_bytes(jpeg)
        subprocess.run(["curl", "-sSfk", "-H", "Authorization: Bearer " + key, "-H", "Content-Type: image/jpeg",
                        "--data-binary", f"@{picture}", "-o", "/dev/null", f"https://localhost:{d.http_port}/v1/segment"],
                       check=True)
        pid = decoder(d, "images")
        assert holds(d.process.pid, secrets)   # so the search finds something
        for p in (pid, zygote(d)):
            assert not holds(p, secrets)
            with open(f"/proc/{p}/environ", "rb") as f:
                assert all(v.split(b"=")[0].endswith(b"SAN_OPTIONS") or v.startswith((b"LD_LIBRARY_PATH=", b"CUDA_"))
                           for v in f.read().split(b"\0") if v)
        assert links(pid) <= ({"/dev/null", "socket"} | (links(d.process.pid) if SANITIZED else set()))
        with open(f"/proc/{pid}/status") as f:
            status = f.read()
        assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status


# ---------------------------------------------------------------------------------------------------------- ends
def family(pid: int) -> list[int]:
    return [p for child in children(pid) for p in (child, *family(child))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_daemon(tiny_model, tmp_path, jpeg, packets, number):
    d = Daemon(tiny_model, tmp_path / "s", "--drain-seconds", "0")

    async def run():
        async with Raw(d, "a?format=raw") as c:
            await c.send(packet(0, packets[0]))
            await answer(c)
            assert segment(d, jpeg).status == 200
            kill(decoder(d, "packets"), signal.SIGSTOP)   # whatever they are doing
            all_ = family(d.process.pid)
            assert len(all_) == 3
            d.process.send_signal(number)
            await asyncio.to_thread(d.process.wait, PATIENCE)
            return all_
    for pid in asyncio.run(run()):
        gone(pid)


def gone(pid: int) -> None:
    end = time.monotonic() + PATIENCE
    while alive(pid):
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.02)


ALLOW, REFUSE = 0x7fff0000, 0x00050001   # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)


def load_filter(default: int, action: int, names) -> None:
    """For this process and what it starts: `action` for these system calls, `default` for all others."""
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint]
    lib.seccomp_load.argtypes = [ctypes.c_void_p]
    f = lib.seccomp_init(default)
    for name in names:
        if (number := lib.seccomp_syscall_resolve_name(name.encode())) >= 0:
            assert lib.seccomp_rule_add(f, action, number, 0) == 0
    assert lib.seccomp_load(f) == 0


def forbid_seccomp() -> None:
    """As a container may."""
    load_filter(ALLOW, REFUSE, ["seccomp"])


def calls(name: str) -> set[str]:
    """A system call, or those of a set of systemd's."""
    if not name.startswith("@"):
        return {name}
    out = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True).stdout
    members = (line.strip() for line in out.splitlines() if line.startswith("    "))
    return {call for m in members if not m.startswith("#") for call in calls(m)}


def allowed_by_the_unit() -> set[str]:
    """Its SystemCallFilter lines, and RestrictNamespaces."""
    allowed = calls("@default")
    with open(os.path.join(HERE, "../systemd/tv3sd.service")) as f:
        for value in re.findall(r"^SystemCallFilter=(.*)$", f.read(), re.M):
            of = {call for name in value.lstrip("~").split() for call in calls(name)}
            allowed = allowed - of if value.startswith("~") else allowed | of
    return allowed - {"unshare"}


def test_there_is_a_sandbox_under_the_filter_of_the_unit(tiny_model, tmp_path, video, jpeg, monkeypatch):
    allowed, popen = allowed_by_the_unit(), subprocess.Popen
    want = tool(tiny_model, video, tmp_path / "o.jsonl")
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **more: popen(
        *args, **more, preexec_fn=lambda: load_filter(REFUSE, ALLOW, allowed)))
    # the search for leaks stops the program by ptrace, which the unit takes
    env = {**os.environ, "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}
    with Daemon(tiny_model, tmp_path / "s", env=env) as d:
        monkeypatch.undo()
        assert segment(d, jpeg).status == 200
        job = d.upload(video, "?format=rle")
        assert d.get(job["masks"]).body == want
        assert re.search('event=sandbox by="?seccomp', d.log()) and "namespaces" not in d.log()


def test_without_a_sandbox_the_daemon_does_not_start_unless_told(tiny_model, tmp_path):
    command = [TV3SD, "--model", tiny_model, "--http-port", "0", "--ws-port", "0", "--spool", tmp_path / "s"]
    r = subprocess.run([*map(str, command)], capture_output=True, text=True, preexec_fn=forbid_seccomp, timeout=PATIENCE)
    assert r.returncode == 1 and "no sandbox for the decoders, and 'sandbox' is not false" in r.stderr
    log = tmp_path / "log"
    with open(log, "w") as f:
        p = subprocess.Popen([*map(str, command), "--sandbox=false"], stderr=f, preexec_fn=forbid_seccomp)
    end = time.monotonic() + PATIENCE
    while "event=ready" not in log.read_text():
        assert p.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    assert "event=sandbox_off" in log.read_text()
    p.terminate()
    assert p.wait(PATIENCE) == 0
