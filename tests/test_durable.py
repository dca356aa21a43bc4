"""What was accepted outlives the daemon: killed, cut from power or stopped, jobs go on where their last checkpoint is,
and the result is that of a run that nobody disturbed, byte for byte."""
from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import threading

import pytest

import cases
import masks
import power
from arithmetic import has_bf16
from daemon import PATIENCE, Daemon
from keys import new_key
from test_convert import convert, save, segformer
from test_http import multipart
from test_videos import ENDING, X264, tool

FRAMES = 40
FORMATS = sorted(ENDING)
OFTEN = ("--job-checkpoint", "0")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return masks.video(tmp_path_factory.mktemp("clip") / "clip.mp4", cases.frames((160, 224), FRAMES, 5), *X264)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory, tiny_model, clip):
    """The tool's result for a format and a mode; made once."""
    folder, made = tmp_path_factory.mktemp("wanted"), {}

    def want(name: str, mode="stream") -> bytes:
        if (name, mode) not in made:
            out = folder / f"{mode}.{name}.{ENDING[name]}"
            made[name, mode] = tool(tiny_model, clip, out, "--format", name, "--mode", mode)
        return made[name, mode]
    return want


def kill(d: Daemon) -> None:
    d.process.kill()
    d.process.wait()


def sql(spool, *command) -> list[tuple]:
    """In the database of a daemon that is gone."""
    with contextlib.closing(sqlite3.connect(spool / "jobs.sqlite")) as db, db:
        return db.execute(*command).fetchall()


def kept(spool) -> dict[str, int]:
    """Frames that are durable, by job."""
    return dict(sql(spool, "SELECT id, done FROM jobs"))


def wait_done(d: Daemon, job: str, frames: int) -> None:
    d.wait_for(lambda: d.json("/v1/videos/" + job)["frames"]["done"] >= frames)


def cut_short(model: str, spool, clip: str, query: str, *flags, after=15, frames=FRAMES) -> str:
    """A job in the middle of which the daemon is killed: by the fsync of that number that follows the answer. Some make a
    checkpoint, and between two of these come eight frames at most."""
    env = power.preload("power", spool.parent, POWER_AFTER=str(after))
    with Daemon(model, spool, *OFTEN, *flags, env=env) as d:
        job = d.upload(clip, query, wait=False)["id"]
        assert d.process.wait(PATIENCE) == -signal.SIGKILL
    assert 0 < kept(spool)[job] < frames
    return job


def masks_so_far(d: Daemon, job: str, frames: int) -> list[bytes]:
    return [d.get(f"/v1/videos/{job}/masks/{i}").body for i in range(frames)]


# ------------------------------------------------------------------------------------------------ ended jobs stay
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_results_outlive_the_daemon(tmp_path, tiny_model, clip, wanted, end):
    with Daemon(tiny_model, tmp_path / "spool") as d:
        jobs = [d.upload(clip, f"?format={name}&mode=clip" if name == "rle" else f"?format={name}")
                for name in FORMATS]
        broken = d.request("POST", "/v1/videos", b"x" * 1000).json()["id"]
        jobs.append(d.finish(broken))
        deleted = d.upload(clip)["id"]
        assert d.request("DELETE", "/v1/videos/" + deleted).status == 204
        third = {j["id"]: d.get(f"/v1/videos/{j['id']}/masks/3").body for j in jobs}
        d.process.send_signal(end)
        d.process.wait()
    with Daemon(tiny_model, tmp_path / "spool") as d:
        assert d.json("/v1/videos")["videos"] == jobs[::-1]
        assert set(d.folders()) == {j["id"] for j in jobs}
        assert jobs[-1]["state"] == "failed" and jobs[-1]["error"]["type"] == "/problems/bad-format"
        for name, job in zip(FORMATS, jobs):
            assert d.get(job["masks"]).body == wanted(name, "clip" if name == "rle" else "stream")
        for job in jobs[:-1]:
            assert d.get(f"/v1/videos/{job['id']}/masks/3").body == third[job["id"]]
            assert d.request("DELETE", "/v1/videos/" + job["id"]).status == 204
    with Daemon(tiny_model, tmp_path / "spool") as d:
        assert [j["id"] for j in d.json("/v1/videos")["videos"]] == [broken] == d.folders()


def test_ended_jobs_are_there_without_their_model(tmp_path, tiny_model, clip):
    with Daemon("first=" + tiny_model, tmp_path / "spool") as d:
        job = d.upload(clip)
        result = d.get(job["masks"]).body
    with Daemon("second=" + tiny_model, tmp_path / "spool") as d:
        assert d.json("/v1/videos/" + job["id"]) == job and d.get(job["masks"]).body == result


def test_jobs_wait_for_their_model(tmp_path, tiny_model, clip, wanted):
    job = cut_short("first=" + tiny_model, tmp_path / "spool", clip, "?format=raw")
    with Daemon("second=" + tiny_model, tmp_path / "spool") as d:
        waiting = d.json("/v1/videos/" + job)
        assert waiting["state"] == "queued" and "'first'" in waiting["error"]["detail"]
        assert d.upload(clip, "?format=raw")["state"] == "succeeded"
    with Daemon("first=" + tiny_model, tmp_path / "spool") as d:
        ended = d.finish(job)
        assert ended["state"] == "succeeded" and ended["error"] is None
        assert d.get(ended["masks"]).body == wanted("raw")


# -------------------------------------------------------------------------------------------------- running jobs go on
@pytest.mark.parametrize("name", FORMATS)
def test_a_killed_daemon_goes_on_from_its_checkpoint(tmp_path, tiny_model, clip, wanted, name):
    job = cut_short(tiny_model, tmp_path / "spool", clip, f"?format={name}")
    frames = kept(tmp_path / "spool")[job]
    with Daemon(tiny_model, tmp_path / "spool", *OFTEN) as d:
        d.wait_log(f"event=job_resumed job={job} frames={frames}\n")
        ended = d.finish(job)
        assert ended["state"] == "succeeded" and ended["frames"] == {"done": FRAMES, "total": FRAMES, "corrupt": 0}
        assert d.get(ended["masks"]).body == wanted(name)
        masks_now = masks_so_far(d, job, FRAMES)
        assert masks_now == masks_so_far(d, d.upload(clip, f"?format={name}")["id"], FRAMES)
        assert not [f for f in os.listdir(tmp_path / "spool" / job) if f.startswith(("state", "upload", "."))]


@pytest.mark.parametrize("mode", ["clip", "frame"])
def test_modes_without_a_state_go_on_too(tmp_path, tiny_model, clip, wanted, mode):
    for at in (8, 15):
        job = cut_short(tiny_model, tmp_path / f"spool{at}", clip, f"?format=rle&mode={mode}", after=at)
        with Daemon(tiny_model, tmp_path / f"spool{at}", *OFTEN) as d:
            d.wait_log("event=job_resumed")
            assert d.get(d.finish(job)["masks"]).body == wanted("rle", mode)


def goes_on(model: str, folder, clip: str, *flags) -> None:
    """A job of the model in the middle of which the daemon is killed, against the tool."""
    job = cut_short(model, folder / "spool", clip, "?format=rle", *flags)
    with Daemon(model, folder / "spool", *flags) as d:
        d.wait_log("event=job_resumed")
        assert d.get(d.finish(job)["masks"]).body == tool(model, clip, folder / "o.jsonl", *flags)
        assert "event=job_anew" not in d.log()


def test_a_segformer_goes_on(tmp_path, clip):
    goes_on(convert(save(tmp_path / "segformer.pth", segformer())), tmp_path, clip)


@pytest.mark.skipif(not has_bf16(), reason="this CPU has no bfloat16 products (AVX512_BF16 or AMX)")
def test_a_model_in_bf16_goes_on(tmp_path, tiny_model, clip):
    goes_on(tiny_model, tmp_path, clip, "--dtype", "bf16")


def test_a_stop_is_no_failure(tmp_path, tiny_model, clip, wanted):
    """Twice, also while the part that is there already is gone through again."""
    with Daemon(tiny_model, tmp_path / "spool", "--drain-seconds", "0", *OFTEN) as d:
        jobs = [d.upload(clip, f"?format={name}", wait=False)["id"] for name in ("png", "overlay", "coco_rle")]
        wait_done(d, jobs[1], 8)
    with Daemon(tiny_model, tmp_path / "spool", "--drain-seconds", "0", *OFTEN) as d:
        assert len(d.json("/v1/videos")["videos"]) == 3
    with Daemon(tiny_model, tmp_path / "spool") as d:
        for job, name in zip(jobs, ("png", "overlay", "coco_rle")):
            assert d.get(d.finish(job)["masks"]).body == wanted(name)


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random(tmp_path, tiny_model, clip, wanted, seed):
    """Six jobs, one of each format, on a daemon that does not live long."""
    chance, jobs = random.Random(seed), {}
    flags = ("--job-checkpoint", chance.choice(["0", "0.05", "0.2"]), "--jobs-running", "3")
    for life in range(12):
        with Daemon(tiny_model, tmp_path / "spool", *flags) as d:
            for job in jobs.values():
                assert d.json("/v1/videos/" + job)["state"] in ("queued", "running", "succeeded")
            if life < 6:
                jobs[FORMATS[life]] = d.upload(clip, f"?format={FORMATS[life]}", wait=False)["id"]
            timer = threading.Timer(chance.uniform(0, 0.5), d.process.kill)
            timer.start()
            d.process.wait()
    with Daemon(tiny_model, tmp_path / "spool") as d:
        for name, job in jobs.items():
            ended = d.finish(job)
            assert ended["state"] == "succeeded" and d.get(ended["masks"]).body == wanted(name)
        assert set(d.folders()) == set(jobs.values())


def test_sizes_that_change_in_the_middle(tmp_path, tiny_model):
    sizes, parts = ((96, 128), (128, 96)), []
    for i, size in enumerate(sizes):
        parts.append(masks.video(tmp_path / f"{i}.ts", cases.frames(size, 12, i), "-c:v", "mpeg2video", "-q:v", "2"))
    whole = tmp_path / "whole.ts"
    whole.write_bytes(b"".join(open(p, "rb").read() for p in parts))
    want = tool(tiny_model, whole, tmp_path / "o.jsonl")
    for at in (8, 15):
        job = cut_short(tiny_model, tmp_path / f"spool{at}", str(whole), "?format=rle", after=at, frames=24)
        with Daemon(tiny_model, tmp_path / f"spool{at}") as d:
            assert d.get(d.finish(job)["masks"]).body == want


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 21, 34, 55, 89])
def test_what_was_accepted_outlives_a_power_cut(tmp_path, tiny_model, clip, wanted, after):
    """Right after the answer, or after some fsyncs that follow, if the job has so many."""
    name = FORMATS[after % len(FORMATS)]
    env = power.environment(tmp_path, POWER_AFTER=str(after))
    with Daemon(tiny_model, tmp_path / "spool", *OFTEN, env=env) as d:
        job = d.upload(clip, f"?format={name}", wait=False)["id"]
        d.wait_for(lambda: d.process.poll() is not None or "event=job_ended" in d.log())
        kill(d)
    power.after_the_cut(tmp_path / "spool", tmp_path, tmp_path / "left")
    with Daemon(tiny_model, tmp_path / "left") as d:
        ended = d.finish(job)
        assert ended["state"] == "succeeded" and d.get(ended["masks"]).body == wanted(name)
        assert d.folders() == [job] and "job_anew" not in d.log() and "job_lost" not in d.log()


# ---------------------------------------------------------------------------------------- a full disk; and see test_room.py
def test_a_full_disk_delays_jobs_and_loses_none(tmp_path, tiny_model, clip, wanted):
    full = tmp_path / "full"
    env = power.environment(tmp_path, POWER_FULL=str(full), POWER_AFTER="15")
    with Daemon(tiny_model, tmp_path / "spool") as d:
        done = d.upload(clip, "?format=png")
    with Daemon(tiny_model, tmp_path / "spool", *OFTEN, env=env) as d:
        job = d.upload(clip, "?format=overlay", wait=False)["id"]
        d.wait_for(lambda: d.json("/v1/videos/" + job)["state"] == "queued")
        assert d.json("/v1/videos/" + job)["error"]["type"] == "/problems/no-space"
        r = d.request("POST", "/v1/videos", open(clip, "rb").read())
        assert (r.status, r.problem()) == (503, "no-space") and r.headers["Retry-After"]
        assert d.get(done["masks"]).body == wanted("png")
        full.unlink()
        ended = d.finish(job)
        assert ended["state"] == "succeeded" and ended["error"] is None
        assert d.get(ended["masks"]).body == wanted("overlay")
        d.wait_for(lambda: len(d.folders()) == 2)


# ------------------------------------------------------------------------------------- checkpoints that are no good
def spoil_state(folder) -> None:
    state, = [f for f in folder.iterdir() if f.name == "state-" + str(kept(folder.parent)[folder.name])]
    state.write_bytes(state.read_bytes()[:-100])


def spoil_frames(folder) -> None:
    with open(folder / "frames", "r+b") as f:
        f.write(b"x" * 5000)


def spoil_index(folder) -> None:
    os.truncate(folder / "index", 40)


@pytest.mark.parametrize("spoil", [spoil_state, spoil_frames, spoil_index])
def test_a_damaged_checkpoint_costs_time_alone(tmp_path, tiny_model, clip, wanted, spoil):
    job = cut_short(tiny_model, tmp_path / "spool", clip, "?format=labels")
    spoil(tmp_path / "spool" / job)
    with Daemon(tiny_model, tmp_path / "spool") as d:
        ended = d.finish(job)
        assert "event=job_anew" in d.log() and d.get(ended["masks"]).body == wanted("labels")


def test_another_model_of_the_same_name_begins_anew(tmp_path, tiny_model, clip):
    job = cut_short("m=" + tiny_model, tmp_path / "spool", clip, "?format=raw")
    other = "m=models/street.safetensors"
    with Daemon(other, tmp_path / "spool") as d:
        ended = d.finish(job)
        assert "event=job_anew" in d.log()
        assert d.get(ended["masks"]).body == tool(other[2:], clip, tmp_path / "o.raw")


# ------------------------------------------------------------------------------------------------- Idempotency-Key
def test_an_upload_that_is_sent_again_is_the_same_job(tmp_path, tiny_model, clip):
    data, key = open(clip, "rb").read(), '"8e03978e-40d5-43e8-bc93"'
    other = data[:-1] + bytes([data[-1] ^ 1])

    def post(d: Daemon, query="", body=data, key=key):
        return d.request("POST", "/v1/videos" + query, body, Idempotency_Key=key)

    with Daemon(tiny_model, tmp_path / "spool") as d:
        first = post(d)
        assert first.status == 202
        job = first.json()["id"]
        form, kind = multipart(data, "file")
        for again in (post(d), post(d, "?model=tiny&mode=stream"), post(d, body=iter([data[:1000], data[1000:]])),
                      d.request("POST", "/v1/videos", form, Content_Type=kind, Idempotency_Key=key)):
            assert again.status == 202 and again.json()["id"] == job
            assert again.headers["Location"] == "/v1/videos/" + job
        for query, body in (("", other), ("", data[:-1]), ("?format=rle", data), ("?resize=64x64", data)):
            r = post(d, query, body)
            assert (r.status, r.problem()) == (422, "key-reused")
        for bad in ("", "a b", "x" * 256, "\xe4"):
            assert post(d, key=bad).status == 400
        assert post(d, key="another").json()["id"] != job and len(d.json("/v1/videos")["videos"]) == 2
        d.finish(job)
        kill(d)
    with Daemon(tiny_model, tmp_path / "spool") as d:
        assert post(d).json()["id"] == job and post(d).json()["state"] == "succeeded"
        assert post(d, body=other).status == 422
        assert d.request("DELETE", "/v1/videos/" + job).status == 204
        anew = post(d, body=other)
        assert anew.status == 202 and anew.json()["id"] != job


def test_a_key_whose_upload_is_arriving_is_taken_and_one_that_broke_off_is_free(daemon, clip):
    data = open(clip, "rb").read()
    head = f"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: k\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    before = len(daemon.json("/v1/videos")["videos"])
    with socket.create_connection(("127.0.0.1", daemon.http_port)) as s:
        s.sendall(head + data[:5000])
        daemon.wait_for(lambda: len(daemon.json("/v1/videos")["videos"]) > before)
        r = daemon.request("POST", "/v1/videos", data, Idempotency_Key="k")
        assert (r.status, r.problem()) == (409, "conflict")
    daemon.wait_for(lambda: len(daemon.json("/v1/videos")["videos"]) == before)
    assert daemon.request("POST", "/v1/videos", data, Idempotency_Key="k").status == 202


# --------------------------------------------------------------------------------------------------------- quotas
def test_the_oldest_ended_job_makes_room(tmp_path, tiny_model, clip):
    """A job has 1.4 MB of masks, twice while it runs: with one that has ended it fits, with two it does not."""
    assert os.path.getsize(clip) < 200_000 and 160 * 224 * FRAMES > 1_400_000
    with Daemon(tiny_model, tmp_path / "spool", "--spool-max", "5000000", "--job-checkpoint", "3600") as d:
        ids = []
        for _ in range(4):
            ids.append(d.upload(clip, "?format=raw&mode=frame")["id"])
            assert [j["id"] for j in d.json("/v1/videos")["videos"]] == ids[:-3:-1]
        d.wait_for(lambda: d.folders() == sorted(ids[2:]))
        d.wait_for(lambda: 2_800_000 < d.metric("tv3sd_spool_bytes") < 3_000_000)


def test_who_fills_the_spool_loses_his_own_results(tmp_path, tiny_model, clip):
    """Bob's are older, and less."""
    keys = {name: new_key(tmp_path / "keys.json", name) for name in ("ann", "bob")}
    with Daemon(tiny_model, tmp_path / "spool", "--spool-max", "5000000", "--job-checkpoint", "3600",
                "--keys-file", tmp_path / "keys.json", key=keys["bob"]) as d:
        bobs = d.upload(clip, "?format=png")
        d.key = keys["ann"]
        anns = [d.upload(clip, "?format=raw&mode=frame")["id"] for _ in range(3)]
        d.wait_for(lambda: d.folders() == sorted([bobs["id"], *anns[1:]]))
        d.key = keys["bob"]
        assert d.get(bobs["masks"]).status == 200


@contextlib.contextmanager
def arriving(d: Daemon, data: bytes, more: int):
    """An upload of which the first bytes are there and `more` are not."""
    with socket.create_connection(("127.0.0.1", d.http_port)) as s:
        s.sendall(f"POST /v1/videos?format=raw HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data) + more}\r\n\r\n".encode() + data)
        d.wait_for(lambda: d.metric("tv3sd_spool_bytes") >= len(data))
        yield s


def refused(d: Daemon, size: int, why: str) -> None:
    """Why is told to the operator alone: it is others' files."""
    r = d.request("POST", "/v1/videos", b"x" * size)
    assert (r.status, r.problem()) == (503, "no-space") and r.headers["Retry-After"]
    assert r.json()["detail"] == "the spool has no room now"
    d.wait_log(f"event=no_room job=.* reason={why}")


def test_a_job_that_does_not_fit_alone_fails(tmp_path, tiny_model, clip):
    with Daemon(tiny_model, tmp_path / "spool", "--spool-max", "2000000") as d:
        alone = d.upload(clip, "?format=raw")
        assert alone["state"] == "failed" and alone["error"]["type"] == "/problems/over-limit"
        assert d.upload(clip, "?format=png")["state"] == "succeeded"


def test_uploads_leave_half_of_the_spool_to_masks(tmp_path, tiny_model, clip, wanted):
    """Masks of 1.43 MB, twice, beside uploads that take all that they may."""
    assert os.path.getsize(clip) < 200_000 and 2_800_000 < 2 * 160 * 224 * FRAMES < 2_900_000
    with Daemon(tiny_model, tmp_path / "spool", "--spool-max", "6000000") as d:
        with arriving(d, b"x" * 2_800_000, 100_000):
            job = d.upload(clip, "?format=raw", wait=False)["id"]
            refused(d, 300_000, "uploads_fill_half_of_it")
            ended = d.finish(job)
            assert ended["state"] == "succeeded" and d.get(ended["masks"]).body == wanted("raw")
        r = d.request("POST", "/v1/videos", b"x" * 3_000_001)
        assert (r.status, r.problem()) == (413, "over-limit")


def test_jobs_that_hold_what_each_other_needs_all_end(tmp_path, tiny_model, clip, wanted):
    """One has half of its masks and waits for the rest of its upload, which leaves too little to another. That waits, and
    keeps new uploads away; the first gives its masks up for it, and is done after it."""
    slow = masks.video(tmp_path / "slow.ts", cases.frames((160, 224), FRAMES, 6), "-c:v", "mpeg2video", "-q:v", "3", "-bf", "0")
    data, size = open(slow, "rb").read(), os.path.getsize(clip)
    some = 3 * len(data) // 4
    assert some > 65536 and len(data) + size < 2_000_000
    most = len(data) + 2 * 160 * 224 * FRAMES + size + 800_000
    with Daemon(tiny_model, tmp_path / "spool", "--spool-max", str(most), "--job-checkpoint", "0") as d:
        with arriving(d, data[:some], len(data) - some) as s:
            slow_job = d.json("/v1/videos")["videos"][0]["id"]
            wait_done(d, slow_job, FRAMES // 2)
            job = d.upload(clip, "?format=raw", wait=False)["id"]
            d.wait_log(f"event=job_waits job={job} ")
            waiting = d.json("/v1/videos/" + job)
            assert (waiting["state"], waiting["error"]["type"]) == ("queued", "/problems/no-space")
            refused(d, 1000, "another_waits_for_room")
            s.sendall(data[some:])
            assert s.recv(100).startswith(b"HTTP/1.1 202 ")
            d.wait_log(f"event=job_waits job={slow_job} ")
            d.wait_log(f"event=job_ended job={job} state=succeeded")
            ended = d.finish(slow_job)
        assert ended["state"] == "succeeded"
        assert d.get(ended["masks"]).body == tool(tiny_model, slow, tmp_path / "slow.raw", "--format", "raw")
        assert d.upload(clip, "?format=raw")["state"] == "succeeded"


# ---------------------------------------------------------------------------------------------------- the database
def test_a_database_of_the_version_before_is_taken_over(tmp_path, tiny_model, clip):
    with Daemon(tiny_model, tmp_path / "spool") as d:
        job = d.upload(clip)
    for column in ("key", "digest", "webhook", "warning", "decoder"):
        sql(tmp_path / "spool", f"ALTER TABLE jobs DROP COLUMN {column}")
    sql(tmp_path / "spool", "DROP TABLE deliveries")
    sql(tmp_path / "spool", "ALTER TABLE jobs ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0")
    sql(tmp_path / "spool", "PRAGMA user_version = 2")
    with Daemon(tiny_model, tmp_path / "spool") as d:
        assert d.json("/v1/videos")["videos"] == [{**job, "decoder": None}]   # nobody knows what decoded it
        assert d.request("POST", "/v1/videos", open(clip, "rb").read(), Idempotency_Key="k").status == 202


def test_a_database_that_is_not_ours_is_left_alone(tmp_path, tiny_model):
    foreign, later, damaged, text = (tmp_path / n for n in ("foreign", "later", "damaged", "text"))
    for spool in (foreign, later, damaged, text):
        spool.mkdir()
    sql(foreign, "CREATE TABLE recipes(name TEXT)")
    with Daemon(tiny_model, later):
        pass
    shutil.copy(later / "jobs.sqlite", damaged)
    sql(later, "PRAGMA user_version = 99")
    with open(damaged / "jobs.sqlite", "r+b") as f:
        f.seek(4096)
        f.write(os.urandom(4096))
    (text / "jobs.sqlite").write_text("to be or not to be\n" * 100)
    for spool, why in ((foreign, "another program"), (later, "a later tv3sd made it: version 99"),
                       (damaged, "damaged"), (text, "no database")):
        before = (spool / "jobs.sqlite").read_bytes()
        with pytest.raises(AssertionError, match=f"jobs.sqlite.*{why}"):
            Daemon(tiny_model, spool)
        assert (spool / "jobs.sqlite").read_bytes() == before


def test_rows_and_folders_that_do_not_belong_together(tmp_path, tiny_model, clip):
    with Daemon(tiny_model, tmp_path / "spool") as d:
        ids = [d.upload(clip)["id"] for _ in range(2)]
    stray = tmp_path / "spool" / ("x" * 22)
    stray.mkdir()
    (stray / "upload").write_bytes(b"x")
    (tmp_path / "spool" / "notes").mkdir()
    shutil.rmtree(tmp_path / "spool" / ids[0])
    sql(tmp_path / "spool", "UPDATE jobs SET id = '../../etc' WHERE id = ?", (ids[0],))
    sql(tmp_path / "spool", "INSERT INTO jobs SELECT 99, 'y' || substr(id, 2), model, mode, format, resize, 'odd', created,"
        "started, finished, done, total, corrupt, width, height, fps, error, problem, origin, owner, '', '', '', '', '' "
        "FROM jobs WHERE id = ?", (ids[1],))
    with Daemon(tiny_model, tmp_path / "spool") as d:
        assert [j["id"] for j in d.json("/v1/videos")["videos"]] == [ids[1]]
        assert d.folders() == sorted([ids[1], "notes"]) and d.log().count("event=job_lost") == 2
    assert list(kept(tmp_path / "spool")) == [ids[1]]
