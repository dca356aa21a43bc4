"""deploy/ with the real nginx and HAProxy over three daemons: where streams go, and which move when a replica goes,
drains or comes. Names are given and hashing is a function of them, so the counts are the same in every run."""
from __future__ import annotations

import signal
import time

import pytest

from balancers import Haproxy, Nginx
from daemon import PATIENCE, Daemon
from live import Client
from tv3s_client import Tv3sError

STREAMS = [f"cam-{i}" for i in range(400)]


@pytest.fixture(params=[Nginx, Haproxy], ids=["nginx", "haproxy"])
def balanced(request, tiny_model, tmp_path):
    """(balancer, daemons); those that a test kills are its own affair."""
    daemons = [Daemon(tiny_model, tmp_path / f"spool{i}") for i in range(3)]
    try:
        with request.param(tmp_path / "balancer", daemons) as b:
            yield b, daemons
    finally:
        for d in daemons:
            if d.process.poll() is None:
                assert d.stop() == 0, d.log()


def through(balancer) -> Client:
    return Client(f"http://127.0.0.1:{balancer.port}", f"ws://127.0.0.1:{balancer.port}", timeout=PATIENCE)


def until(what, wanted=True):
    """What clients do with a 502 or 503: try again."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if (got := what()) == wanted:
                return got
        except Exception as e:  # the balancer's own error, which is no problem document
            got = e
        time.sleep(0.05)
    raise AssertionError(got)


def owners(balancer, daemons, names=STREAMS) -> dict:
    """Every stream opened through the balancer: which daemon has it. Those that had it before forget it first."""
    alive = [d for d in daemons if d.process.poll() is None]
    for d in alive:
        for s in Client(f"http://127.0.0.1:{d.http_port}").streams():
            d.request("DELETE", f"/v1/streams/{s['id']}")
    c = through(balancer)
    for name in names:
        c.open_stream(name)
    found = {s["id"]: d for d in alive for s in Client(f"http://127.0.0.1:{d.http_port}").streams()}
    assert sorted(found) == sorted(names)
    return found


def moved(before: dict, after: dict) -> float:
    return sum(before[name] is not after[name] for name in before) / len(before)


def test_a_stream_stays_with_one_replica(balanced, picture):
    """By HTTP and by WebSocket, named by the client or by the server."""
    balancer, daemons = balanced
    c = through(balancer)
    opened = [c.open_stream(name) for name in STREAMS[:20]] + [c.open_stream() for _ in range(20)]
    homes = set()
    for s in opened:
        c.frame(s["id"], picture)
        with c.stream(s["id"]) as live:
            assert live.hello["stream"] == s["id"]
            assert [a.seq for a in live.masks([picture])] == [1]
        home, = [d for d in daemons if d.request("GET", f"/v1/streams/{s['id']}").status == 200]
        assert home.json(f"/v1/streams/{s['id']}")["frames"] == 2
        homes.add(home)
    assert homes == set(daemons)


def test_an_upload_is_found_again(balanced, picture):
    """Whichever replica took it; its events come as they happen, and the deleted is gone."""
    balancer, daemons = balanced
    c = through(balancer)
    jobs = [c.upload(picture, format="raw") for _ in range(6)]
    masks = {c.download(c.wait(job)) for job in jobs}
    assert len(masks) == 1
    for job in jobs:
        assert [j.state for j in c.events(job)][-1] == "succeeded"
        c.delete(job)
        assert all(d.request("GET", f"/v1/videos/{job.id}").status == 404 for d in daemons)
    assert c.segment(picture, format="raw").data in masks and c.ready()


def test_an_upload_that_came_another_way_is_found(balanced, picture):
    """As after a restart of the balancer, or where there are two."""
    balancer, daemons = balanced
    c = through(balancer)
    for d in daemons * 3:
        job = Client(f"http://127.0.0.1:{d.http_port}").upload(picture, format="raw")
        assert c.wait(job).state == "succeeded" and c.download(job)
        c.delete(job)
    with pytest.raises(Tv3sError) as e:
        c.job("nobodysnobodysnobodyss")
    assert e.value.status == 404 and e.value.type == "not-found"


def test_when_a_replica_dies_its_streams_move_and_no_others(balanced):
    balancer, daemons = balanced
    before = owners(balancer, daemons)
    daemons[1].process.kill()
    daemons[1].process.wait(PATIENCE)
    lost = [name for name in STREAMS if before[name] is daemons[1]]
    until(lambda: [bool(through(balancer).open_stream(name)) for name in lost[:3]], [True] * 3)
    after = owners(balancer, daemons)
    assert all(after[name] is before[name] for name in STREAMS if before[name] is not daemons[1])
    assert {after[name] for name in lost} == {daemons[0], daemons[2]}
    print(f"killed one of three: {moved(before, after):.3f} of the streams moved")
    assert moved(before, after) == len(lost) / len(STREAMS) and 0.22 < moved(before, after) < 0.45


def test_a_replica_that_drains_lets_its_streams_go(balanced, picture):
    balancer, daemons = balanced
    before = owners(balancer, daemons)
    name = next(name for name in STREAMS if before[name] is daemons[0])
    c = through(balancer)
    with c.stream(name) as live:
        frames = live.masks(picture for _ in range(100000))
        next(frames)
        daemons[0].process.send_signal(signal.SIGTERM)
        with pytest.raises(Exception, match="drain"):
            for _ in frames:
                pass
    assert daemons[0].process.wait(PATIENCE) == 0, daemons[0].log()
    until(lambda: bool(c.open_stream(name)))
    with c.stream(name) as live:
        assert [a.seq for a in live.masks([picture])] == [0]
    after = owners(balancer, daemons)
    assert all(after[n] is before[n] for n in STREAMS if before[n] is not daemons[0])


def test_when_a_replica_comes_one_in_n_streams_moves_to_it(balanced, tiny_model, tmp_path):
    balancer, daemons = balanced
    before = owners(balancer, daemons)
    daemons.append(Daemon(tiny_model, tmp_path / "spool3"))
    balancer.reload(daemons)
    after = owners(balancer, daemons)
    assert all(after[name] in (before[name], daemons[3]) for name in STREAMS)
    print(f"a fourth beside three: {moved(before, after):.3f} of the streams moved")
    assert 0.18 < moved(before, after) < 0.32


def test_errors_are_the_daemons_own_and_metrics_are_not_for_clients(balanced):
    balancer, _ = balanced
    c = through(balancer)
    with pytest.raises(Tv3sError) as e:
        c.metrics()
    assert e.value.status == 404
    with pytest.raises(Tv3sError, match="no stream ID"), c.stream("a b"):
        pass
