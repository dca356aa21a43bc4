"""Several GPUs in one daemon: an engine on each, streams and uploads spread over them.

The GPUs are the stand-in's of tests/cuda_host, where one that touches another's memory ends the process."""
from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cases
import masks
from daemon import CUDA_HOST_TV3SD, PATIENCE, Daemon
from live import client, rgb
from replicas import Redis, replica
from test_device import REASON, post
from test_videos import X264
from test_ws import png

STREAMS, FRAMES = 16, 3


@pytest.fixture(scope="module")
def clips():
    return [cases.frames((64, 96), FRAMES, seed) for seed in range(STREAMS)]


def on_gpus(model, spool, devices, *flags, count=2) -> Daemon:
    return Daemon(model, spool, "--device", devices, "--room-size", "", *flags, env=dict(os.environ, CUDA_HOST_DEVICES=str(count)),
                  program=CUDA_HOST_TV3SD)


def of_each(d: Daemon, name: str, count=2) -> list[float]:
    return [d.metric(f'tv3sd_engine_{name}{{engine="{i}",device="cuda:{i}"}}') for i in range(count)]


def labels_of(d: Daemon, clips) -> list[list[bytes]]:
    """Each clip in a stream of its own; all are open at once."""
    all_open = threading.Barrier(len(clips))

    def one(i):
        with client(d).stream(f"cam{i}", format="raw") as s:
            all_open.wait(PATIENCE)
            for frame in clips[i]:
                s.send(rgb(frame))
            s.end()
            return [bytes(a.data) for a in s.events()]

    with ThreadPoolExecutor(len(clips)) as pool:
        return list(pool.map(one, range(len(clips))))


def test_streams_spread_evenly_and_are_labelled_as_by_one(tmp_path, tiny_model, clips):
    with on_gpus(tiny_model, tmp_path / "one", "cuda", count=1) as d:
        wanted = labels_of(d, clips)
        assert of_each(d, "frames_total", 1) == [STREAMS * FRAMES]
    with on_gpus(tiny_model, tmp_path / "two", "cuda:0,cuda:1") as d:
        assert labels_of(d, clips) == wanted
        assert of_each(d, "sessions") == [STREAMS / 2] * 2
        assert of_each(d, "frames_total") == [STREAMS * FRAMES / 2] * 2
        bytes_each = of_each(d, "state_bytes")
        assert bytes_each[0] == bytes_each[1] > 0 and sum(bytes_each) == d.metric("tv3sd_state_bytes")
        assert all(n > 0 for n in of_each(d, "batches_total"))
        for i in range(0, STREAMS, 2):
            assert d.request("DELETE", f"/v1/streams/cam{i}").status == 204
        d.wait_for(lambda: sum(of_each(d, "sessions")) == STREAMS / 2)
        before = of_each(d, "sessions")
        for i in range(STREAMS, STREAMS + 8):   # new ones go where fewer are
            assert d.request("PUT", f"/v1/streams/cam{i}").status == 201
        assert of_each(d, "sessions") == [STREAMS / 2] * 2, before


def test_a_state_moves_to_a_stream_on_another_device(tmp_path, tiny_model, clips):
    with on_gpus(tiny_model, tmp_path / "spool", "cuda:all") as d:
        for name in "ab":
            assert d.request("PUT", f"/v1/streams/{name}?format=raw").status == 201
        assert of_each(d, "sessions") == [1, 1]
        assert post(d, "a", clips[0][0]).status == 200
        state = d.get("/v1/streams/a/state").body
        assert d.request("PUT", "/v1/streams/b/state", state).status < 300
        assert post(d, "a", clips[0][1]).body == post(d, "b", clips[0][1]).body
        assert of_each(d, "frames_total") == [2, 1]
        assert d.get("/v1/streams/a/state").body == d.get("/v1/streams/b/state").body


def test_spilled_states_come_back_to_their_device(tmp_path, tiny_model, clips):
    with on_gpus(tiny_model, tmp_path / "spool", "cuda:all") as d:
        for name in "ab":
            assert d.request("PUT", f"/v1/streams/{name}?format=raw").status == 201
            assert post(d, name, clips[0][0]).status == 200
        wanted = post(d, "a", clips[0][1]).body
        each = int(of_each(d, "state_bytes")[0])
    with on_gpus(tiny_model, tmp_path / "small", "cuda:all", "--max-state-bytes", str(each), "--spill-idle", "0") as d:
        for name in "abcd":   # two on each, of which one has room
            assert d.request("PUT", f"/v1/streams/{name}?format=raw").status == 201
            assert post(d, name, clips[0][0]).status == 200
        assert of_each(d, "state_bytes") == [each, each] and d.metric("tv3sd_spilled_bytes") == 2 * each
        for name in "abcd":
            assert post(d, name, clips[0][1]).body == wanted
        assert d.metric("tv3sd_streams_fetched_total") >= 4


def test_uploads_spread_too(tmp_path, tiny_model, clips):
    clip = masks.video(tmp_path / "clip.mp4", np.concatenate(clips[:3]), *X264)
    with on_gpus(tiny_model, tmp_path / "spool", "cuda:all", "--jobs-running", "2") as d:
        d.process.send_signal(signal.SIGUSR2)   # holds the devices, so that two run at once
        jobs = [d.upload(clip, "?format=raw", wait=False)["id"] for _ in range(4)]
        d.wait_for(lambda: of_each(d, "sessions") == [1, 1])
        d.process.send_signal(signal.SIGUSR2)
        ended = [d.finish(j) for j in jobs]
        assert [j["state"] for j in ended] == ["succeeded"] * 4
        assert len({d.get(j["masks"]).body for j in ended}) == 1
        assert all(n > 0 for n in of_each(d, "frames_total"))


# ---- a device that is taken out of use ----------------------------------------------------------------------
def drain(d: Daemon, config, *devices) -> None:
    config.write_text(json.dumps({"drained_devices": devices}))
    d.process.send_signal(signal.SIGHUP)


@pytest.fixture
def drainable(tmp_path, tiny_model):
    config = tmp_path / "tv3sd.json"
    config.write_text("{}")
    with on_gpus(tiny_model, tmp_path / "spool", "cuda:all", "--config", str(config)) as d:
        yield d, config


def replay(d: Daemon, name: str, clip, count: int) -> list[bytes]:
    with client(d).stream(name, format="raw", credit=1) as s:
        return [bytes(a.data) for a in s.masks(rgb(clip[t % FRAMES]) for t in range(count))]


def test_streams_under_load_move_with_their_states(drainable, clips):
    (d, config), moved, streams = drainable, threading.Event(), 6
    begun = threading.Barrier(streams + 1)

    def endless(i):
        for t in itertools.count():
            if t == 2:
                begun.wait(PATIENCE)
            if moved.is_set() and t > 2:
                return
            yield rgb(clips[i][t % FRAMES])

    def one(i):
        with client(d).stream(f"cam{i}", format="raw", credit=8) as s:
            answers = list(s.masks(endless(i)))
        assert [a.from_zero for a in answers] == [True] + [False] * (len(answers) - 1)
        return [bytes(a.data) for a in answers]

    with ThreadPoolExecutor(streams) as pool:
        running = [pool.submit(one, i) for i in range(streams)]
        try:
            begun.wait(PATIENCE)
            assert of_each(d, "sessions") == [3, 3]
            drain(d, config, "cuda:1")
            d.wait_for(lambda: of_each(d, "sessions") == [6, 0])
        finally:
            moved.set()
        got = [r.result() for r in running]
    assert of_each(d, "state_bytes")[1] == 0 and d.log().count("event=stream_moved") == 3
    for i in range(streams):   # all of these are on the first device
        assert got[i] == replay(d, f"again{i}", clips[i], len(got[i]))


def test_idle_streams_leave_and_new_ones_come_back(drainable, clips):
    d, config = drainable
    for name in ("a", "b", "c", "silent"):   # b and silent are on the second device
        assert d.request("PUT", f"/v1/streams/{name}?format=raw").status == 201
    wanted = [post(d, "a", clips[0][t]).body for t in range(FRAMES)]
    assert post(d, "b", clips[0][0]).body == wanted[0]
    drain(d, config, "cuda:1")
    d.wait_for(lambda: of_each(d, "sessions") == [4, 0])
    assert [post(d, "b", clips[0][t]).body for t in range(1, FRAMES)] == wanted[1:]
    assert post(d, "silent", clips[0][0]).body == wanted[0]
    assert d.request("POST", "/v1/segment", png(clips[0][0])).status == 200
    d.wait_log("event=device_free device=cuda:1")
    assert of_each(d, "frames_total")[1] == 1 and d.get("/readyz").status == 200
    drain(d, config)
    d.wait_log("event=device_used device=cuda:1")
    for name in "xyz":
        assert d.request("PUT", f"/v1/streams/{name}?format=raw").status == 201
    assert of_each(d, "sessions") == [4, 3]
    assert [[post(d, name, clips[0][t]).body for t in range(FRAMES)] for name in "xyz"] == [wanted] * 3
    assert of_each(d, "frames_total")[1] == 1 + 3 * FRAMES and d.get("/readyz").status == 200
    drain(d, config, "cuda:0", "cuda:1")
    d.wait_log("event=drain_ignored")
    assert d.request("DELETE", "/v1/streams/x").status == 204


def test_the_drained_device_changes_while_streams_last(drainable, clips):
    """The other one takes them up, with its engine opened again, before theirs is let go of."""
    d, config = drainable
    with client(d).stream("a", format="raw", credit=1) as s:
        frames = (rgb(clips[0][t % FRAMES]) for t in itertools.count())
        answers = s.masks(frames)
        got = [bytes(next(answers).data)]
        for here in (1, 0, 1, 0):
            drain(d, config, f"cuda:{here}")
            d.wait_for(lambda: of_each(d, "sessions") == [here, 1 - here])
            d.wait_for(lambda: d.log().count(f"event=device_free device=cuda:{here}") >= 1)
            got.append(bytes(next(answers).data))
    assert got == replay(d, "again", clips[0], len(got))


def test_a_device_that_cannot_be_used_again_stays_drained(drainable, clips):
    d, config = drainable
    drain(d, config, "cuda:1")
    d.wait_log("event=device_free device=cuda:1")
    d.process.send_signal(signal.SIGUSR1)   # fails it
    d.wait_log("the stand-in fails")
    drain(d, config)
    d.wait_log("event=device_not_used device=cuda:1 error=.*" + REASON)
    for name in "ab":
        assert d.request("PUT", f"/v1/streams/{name}").status == 201
        assert post(d, name, clips[0][0]).status == 200
    assert of_each(d, "sessions") == [2, 0] and d.get("/readyz").status == 200


def test_an_upload_ends_where_it_began_and_new_ones_go_elsewhere(tmp_path, drainable, clips):
    d, config = drainable
    clip = masks.video(tmp_path / "clip.mp4", np.concatenate(clips[:2]), *X264)
    d.process.send_signal(signal.SIGUSR2)   # holds the devices, so no upload ends before the drain
    begun = [d.upload(clip, "?format=raw", wait=False)["id"] for _ in range(2)]
    d.wait_for(lambda: of_each(d, "sessions") == [1, 1])
    drain(d, config, "cuda:1")
    d.wait_log("event=device_drained device=cuda:1")
    d.process.send_signal(signal.SIGUSR2)
    later = [d.upload(clip, "?format=raw", wait=False)["id"] for _ in range(2)]
    ended = [d.finish(id) for id in begun + later]
    assert [j["state"] for j in ended] == ["succeeded"] * 4 and len({d.get(j["masks"]).body for j in ended}) == 1
    each = 2 * FRAMES
    assert of_each(d, "frames_total") == [3 * each, each]
    d.wait_for(lambda: of_each(d, "sessions")[1] == 0)
    d.wait_log("event=device_free device=cuda:1")


def test_a_clip_stream_stays_where_its_features_are(drainable, clips):
    d, config = drainable
    for name in "ab":
        assert d.request("PUT", f"/v1/streams/{name}?format=raw&mode=clip").status == 201
    for name in "cd":
        assert d.request("PUT", f"/v1/streams/{name}").status == 201
    assert post(d, "b", clips[0][0]).status == 200
    drain(d, config, "cuda:1")
    d.wait_for(lambda: of_each(d, "sessions") == [3, 1])
    wanted = [post(d, "a", f).body for f in clips[0]]
    assert [post(d, "b", f).body for f in clips[0][1:]] == wanted[1:]
    assert of_each(d, "sessions") == [3, 1]


def test_one_device_that_fails_ends_the_daemon(tmp_path, tiny_model, clips):
    """SIGUSR1 fails the last one; streams of the other are answered until the process ends."""
    with on_gpus(tiny_model, tmp_path / "spool", "cuda:all") as d:
        for name in "ab":
            assert d.request("PUT", f"/v1/streams/{name}").status == 201
        assert d.get("/readyz").status == 200
        with client(d).stream("a", format="raw") as well, client(d).stream("b", format="raw") as ill:
            d.process.send_signal(signal.SIGUSR1)
            d.wait_log("the stand-in fails")
            events = ill.events()
            ill.send(rgb(clips[0][0]))
            with pytest.raises(Exception) as lost:
                list(events)
            assert lost.value.bye == "device" and lost.value.code == 1011
            with pytest.raises(Exception) as lost:
                list(well.events())
            assert lost.value.bye == "drain"
        assert d.process.wait(PATIENCE) == 1, d.log()
        assert "event=device_failed device=cuda:1" in d.log()


def test_of_one_that_fails_the_streams_of_both_go_on_at_another_replica(tmp_path, tiny_model, clips):
    """Those of the failed one from the last state stored, the others from their last frame; no lease has to run out."""
    with Redis() as redis:
        def on(name, count):
            return replica(tiny_model, tmp_path / name, redis, "--device", "cuda:all", "--room-size", "", "--stream-lease", 600,
                           "--snapshot-frames", 1, program=CUDA_HOST_TV3SD, env=dict(os.environ, CUDA_HOST_DEVICES=str(count)))

        with on("a", 2) as a, on("b", 1) as b:
            wanted = {}
            for i, name in enumerate(("well", "ill", "well2", "ill2")):   # in turn on the first device and the last
                assert a.request("PUT", f"/v1/streams/{name}?format=raw").status == 201
                assert b.request("PUT", f"/v1/streams/wanted-{name}?format=raw").status == 201
                wanted[name] = [post(b, f"wanted-{name}", frame).body for frame in clips[i]]
                assert [post(a, name, frame).body for frame in clips[i][:2]] == wanted[name][:2]
                a.wait_for(lambda: redis.meta(name).get("seq") == 1)
            assert of_each(a, "sessions") == [2, 2] and of_each(a, "frames_total") == [4, 4]
            a.process.send_signal(signal.SIGUSR1)
            a.wait_log("the stand-in fails")
            for i, name in ((0, "well"), (2, "well2")):
                assert post(a, name, clips[i][2]).body == wanted[name][2]
            assert post(a, "ill", clips[1][2]).status in (500, 503)
            assert a.process.wait(PATIENCE) == 1, a.log()
            assert "event=device_failed device=cuda:1" in a.log()
            assert [id for id in wanted if redis.cli("EXISTS", redis.record(id).replace(":record", ":lease")) != b"0"] == []
            for i, name in enumerate(wanted):
                last = 2 if name.startswith("well") else 1
                there = b.request("PUT", f"/v1/streams/{name}?format=raw")
                assert there.status == 200 and there.json()["last_seq"] == last, (name, there.body)
                if last == 1:   # the frame that was not answered had no effect
                    assert post(b, name, clips[i][2]).body == wanted[name][2]
                assert post(b, name, clips[i][0]).body == post(b, f"wanted-{name}", clips[i][0]).body


def test_every_engine_must_be_ready(tmp_path, tiny_model):
    with on_gpus(tiny_model, tmp_path / "spool", "cuda:all") as d:
        d.process.send_signal(signal.SIGUSR1)
        d.wait_log("the stand-in fails")
        not_ready = d.get("/readyz")
        assert not_ready.status == 503 and REASON in not_ready.json()["detail"]
        assert d.process.wait(PATIENCE) == 1, d.log()


@pytest.mark.parametrize("devices, says", [
    ("cuda:0,cpu", "must be of one kind"),
    ("cuda:0,cuda:2", "there is no device cuda:2"),
    ("cuda:0,,cuda:1", "device ''"),
    ("cuda:0,cuda:1x", "device 'cuda:1x'"),
    ("cuda:0,cuda", "device cuda:0 is named twice"),
    ("cuda:all,cuda:1", "device cuda:1 is named twice"),
])
def test_devices_that_do_not_go_together_are_refused(tmp_path, tiny_model, devices, says):
    with pytest.raises(AssertionError):
        on_gpus(tiny_model, tmp_path / "spool", devices)
    assert says in (tmp_path / "spool.log").read_text()
    checked = subprocess.run([CUDA_HOST_TV3SD, "--check", "--room-size", "", "--model", tiny_model, "--spool", tmp_path / "spool",
                              "--device", devices], env=dict(os.environ, CUDA_HOST_DEVICES="2"), capture_output=True, text=True)
    assert checked.returncode != 0 and says in checked.stderr
