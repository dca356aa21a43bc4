"""A disk, or a spool_max, that is smaller than the work: of jobs that wait for room one keeps its masks, and all that fit come
to their end; nobody decodes for nothing meanwhile."""
from __future__ import annotations

import contextlib
import os

import pytest

import cases
import masks
import power
from daemon import Daemon
from test_durable import OFTEN, arriving, refused
from test_videos import X264, tool

SIZE, FRAMES = (320, 448), 32
MASKS = 2 * SIZE[0] * SIZE[1] * FRAMES     # `raw`: 9.2 MB, in the result and beside it, until the job ends
REST = 3 << 20                             # its state, the database


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> tuple[str, str]:
    """One, and one of an eighth of its frames."""
    folder = tmp_path_factory.mktemp("clips")
    return tuple(masks.video(folder / f"{n}.mp4", cases.frames(SIZE, n, 5), *X264) for n in (FRAMES, FRAMES // 8))


@pytest.fixture(scope="module")
def wanted(tmp_path_factory, tiny_model, clips) -> list[bytes]:
    folder = tmp_path_factory.mktemp("wanted")
    return [tool(tiny_model, clip, folder / f"{i}.raw", "--format", "raw") for i, clip in enumerate(clips)]


def on_small_disk(spool, size: int) -> tuple:
    """What runs a daemon with a file system of its own as its spool: see /proc/PID/root."""
    spool.mkdir()
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", "--mount", *user, "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"', str(spool))


class Disk:
    """A small one with a daemon's spool, and a file of somebody else's that leaves as much of it as is said."""

    def __init__(self, d: Daemon):
        self.inside = f"/proc/{d.process.pid}/root{d.spool}"
        self.theirs = self.inside + "/theirs"

    def files(self, job: str) -> int:
        """Bytes of a job's masks."""
        return sum(e.stat().st_size for e in os.scandir(f"{self.inside}/{job}") if e.name != "upload")

    def leave(self, size: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.theirs)
        disk = os.statvfs(self.inside)
        with open(self.theirs, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, disk.f_bavail * disk.f_frsize - size)


@contextlib.contextmanager
def small_disk(tmp_path, model, *flags):
    spool = tmp_path / "spool"
    with Daemon(model, spool, *OFTEN, *flags, prefix=on_small_disk(spool, 3 * MASKS)) as d:
        yield d, Disk(d)


def waits(d: Daemon, job: str, event="job_waits") -> int:
    return d.log().count(f"event={event} job={job} ")


def lacks(d: Daemon, clip: str) -> str:
    """A job that runs out of room, when it waits."""
    job = d.upload(clip, "?format=raw", wait=False)["id"]
    d.wait_log(f"event=job_waits job={job} error=.*No space left on device")
    d.wait_for(lambda: d.json("/v1/videos/" + job)["state"] == "queued")
    return job


def test_two_that_wait_for_each_others_room_both_end(tmp_path, tiny_model, clips, wanted):
    """There is room for one, and both have begun."""
    with small_disk(tmp_path, tiny_model, "--jobs-running", "1") as (d, disk):
        disk.leave(3 * MASKS // 4)
        first, second = lacks(d, clips[0]), lacks(d, clips[0])
        kept = d.json("/v1/videos/" + first)
        assert kept["frames"]["done"] > 0 and "goes on from frame" in kept["error"]["detail"]
        gave = d.json("/v1/videos/" + second)
        assert gave["frames"]["done"] == 0 and "begins anew" in gave["error"]["detail"]
        assert kept["error"]["type"] == gave["error"]["type"] == "/problems/no-space"
        disk.leave(MASKS + REST - disk.files(first))
        ended = d.finish(first)
        assert ended["state"] == "succeeded" and d.get(ended["masks"]).body == wanted[0]
        assert f"event=job_resumed job={first} " in d.log()
        d.wait_for(lambda: waits(d, second) == 2)
        assert d.json("/v1/videos/" + second)["state"] == "queued"    # beside that result it does not fit
        assert d.request("DELETE", "/v1/videos/" + first).status == 204
        ended = d.finish(second)
        assert ended["state"] == "succeeded" and d.get(ended["masks"]).body == wanted[0]


def test_nothing_is_given_up_for_a_disk_that_somebody_else_fills(tmp_path, tiny_model, clips):
    with small_disk(tmp_path, tiny_model) as (d, disk):
        assert "event=spool_max_beyond_disk " in d.log()
        done = d.upload(clips[0], "?format=png")
        result = d.get(done["masks"]).body
        disk.leave(MASKS // 2)
        job = lacks(d, clips[0])
        assert "event=spool_disk_full " in d.log() and d.get(done["masks"]).body == result
        r = d.request("POST", "/v1/videos", b"x" * MASKS)
        assert (r.status, r.problem()) == (503, "no-space") and r.headers["Retry-After"]
        assert d.request("DELETE", "/v1/videos/" + job).status == 204
        assert d.upload(clips[1], "?format=png")["state"] == "succeeded"


def test_a_job_that_waits_decodes_again_when_there_is_room(tmp_path, tiny_model, clips, wanted):
    """And not before: a little more than nothing is no room."""
    with small_disk(tmp_path, tiny_model, "--log-level", "debug") as (d, disk):
        disk.leave(MASKS // 2)
        job = lacks(d, clips[0])
        disk.leave(30_000)
        d.wait_for(lambda: waits(d, job, "no_room_yet") >= 3)
        assert d.json("/v1/videos/" + job)["state"] == "queued"
        os.unlink(disk.theirs)
        assert d.finish(job)["state"] == "succeeded" and d.get(f"/v1/videos/{job}/masks").body == wanted[0]
        assert waits(d, job) == 1


def test_what_the_disk_promises_and_does_not_give_is_no_room(tmp_path, tiny_model, clips, wanted):
    """As where a user has a quota."""
    full = tmp_path / "full"
    env = power.environment(tmp_path, POWER_FULL=str(full), POWER_AFTER="15")
    with Daemon(tiny_model, tmp_path / "spool", *OFTEN, "--log-level", "debug", env=env) as d:
        job = lacks(d, clips[0])
        d.wait_for(lambda: waits(d, job, "no_room_yet") >= 3)
        full.unlink()
        assert d.finish(job)["state"] == "succeeded" and d.get(f"/v1/videos/{job}/masks").body == wanted[0]
        assert waits(d, job) == 1


def test_one_that_is_too_large_gives_way_to_one_that_is_not(tmp_path, tiny_model, clips, wanted):
    with small_disk(tmp_path, tiny_model, "--room-patience", "0") as (d, disk):
        disk.leave(MASKS // 2)
        large = lacks(d, clips[0])
        disk.leave(100_000)
        small = lacks(d, clips[1])
        ended = d.finish(small)
        assert ended["state"] == "succeeded" and d.get(ended["masks"]).body == wanted[1]
        gave = d.json("/v1/videos/" + large)
        assert (gave["state"], gave["frames"]["done"]) == ("queued", 0) and "begins anew" in gave["error"]["detail"]
        os.unlink(disk.theirs)
        ended = d.finish(large)
        assert ended["state"] == "succeeded" and d.get(ended["masks"]).body == wanted[0]


def test_uploads_leave_half_of_the_disk_to_masks(tmp_path, tiny_model, clips, wanted):
    """Whatever spool_max says."""
    with small_disk(tmp_path, tiny_model, "--spool-max", "0") as (d, _):
        with arriving(d, b"x" * (3 * MASKS // 2 - 1_000_000), 1000):
            refused(d, 2_000_000, "uploads_fill_half_of_the_disk")
            ended = d.upload(clips[0], "?format=raw")
            assert ended["state"] == "succeeded" and d.get(ended["masks"]).body == wanted[0]
