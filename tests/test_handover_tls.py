"""Hand-over by TLS: stunnel, with deploy/stunnel-redis.conf, before a real Redis that speaks TLS alone."""
from __future__ import annotations

import os
import subprocess

import pytest

from authority import Authority
from balancers import free_port
from conftest import HERE
from live import client
from replicas import Redis, replica
from test_handover import applied, assert_masks, stored
from tv3s_client import ConnectionLost

SIZE, COUNT, SEED = (64, 96), 60, 23
CONFIG = os.path.join(HERE, "../deploy/stunnel-redis.conf")


class Stunnel:
    """The file, with ports and a certificate of the test's."""

    def __init__(self, folder, port: int, redis_port: int, authority: Authority):
        with open(CONFIG) as f:
            text = f.read()
        for was, now in (("127.0.0.1:6379\n", f"127.0.0.1:{port}\n"), ("redis.internal:6380", f"127.0.0.1:{redis_port}"),
                         ("checkHost = redis.internal", "checkHost = localhost"),
                         ("/etc/ssl/certs/redis-ca.pem", str(authority.file))):
            assert text.count(was) == 1, was
            text = text.replace(was, now)
        self.file, self.process = folder / "stunnel.conf", None
        self.file.write_text(text)

    def __enter__(self) -> "Stunnel":
        self.process = subprocess.Popen(["/usr/bin/stunnel4", self.file], stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def authority(tmp_path):
    folder = tmp_path / "authority"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture
def redis(tmp_path, authority):
    authority.certify(tmp_path / "redis.pem", tmp_path / "redis.key", 7)
    port = free_port()
    with Redis("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-cert-file", str(tmp_path / "redis.pem"),
               "--tls-key-file", str(tmp_path / "redis.key"), "--tls-ca-cert-file", str(authority.file)) as r:
        r.tls_port, r.port = port, free_port()
        r.address = f"127.0.0.1:{r.port}"
        yield r


def test_streams_move_by_tls_and_go_on_while_stunnel_is_gone(tiny_model, tmp_path, redis, authority, frames, expected):
    tunnel = Stunnel(tmp_path, redis.port, redis.tls_port, authority)
    with replica(tiny_model, tmp_path / "a", redis, "--snapshot-frames", 10) as a, \
            replica(tiny_model, tmp_path / "b", redis, "--snapshot-frames", 10) as b:
        with tunnel, client(a).stream("cam", format="raw") as s:
            a.wait_for(lambda: a.metric("tv3sd_store_away") == 0)
            assert_masks(applied(s, frames, 0, 12), expected, 0, 12)
            stored(a, redis, "cam", 11)
        for d in a, b:
            d.wait_for(lambda: d.metric("tv3sd_store_away") == 1)
        with client(a).stream("cam", format="raw") as s:
            assert_masks(applied(s, frames, 12, 24), expected, 12, 24)
            assert redis.meta("cam")["seq"] == 11
            with tunnel:
                for d in a, b:
                    d.wait_for(lambda: d.metric("tv3sd_store_away") == 0)
                stored(a, redis, "cam", 23)
                assert a.stop() == 0
                with client(b).stream("cam", format="raw") as t:
                    assert t.last_seq == 23
                    assert_masks(applied(t, frames, 24, COUNT), expected, 24, COUNT)
                assert b.stop() == 0


def test_a_replica_that_is_cut_off_from_redis_goes_on_and_ends_the_stream_when_it_is_back(
        tiny_model, tmp_path, redis, authority, frames, expected):
    """Meanwhile another has the stream, from the state stored: either answers its own client, one alone writes."""
    tunnel = Stunnel(tmp_path, redis.port, redis.tls_port, authority)
    with replica(tiny_model, tmp_path / "a", redis, "--snapshot-frames", 10) as a:
        redis.address = "unix:" + redis.path
        with replica(tiny_model, tmp_path / "b", redis, "--snapshot-frames", 10) as b:
            with tunnel:
                a.wait_for(lambda: a.metric("tv3sd_store_away") == 0)
                s = client(a).stream("cam", format="raw").open()
                applied(s, frames, 0, 12)
                stored(a, redis, "cam", 11)
            with client(b).stream("cam", format="raw") as t:   # when the lease has run out
                assert t.last_seq == 11
                assert_masks(applied(t, frames, 12, 24), expected, 12, 24)
                assert_masks(applied(s, frames, 12, 36), expected, 12, 36)
                stored(b, redis, "cam", 23)
                with tunnel:
                    with pytest.raises(ConnectionLost) as e:
                        for _ in s.events():
                            pass
                    s.close()
                    assert e.value.bye == "takeover" and a.metric("tv3sd_streams_lost_total") == 1
                    assert redis.meta("cam")["seq"] == 23
                assert_masks(applied(t, frames, 24, COUNT), expected, 24, COUNT)
                assert b.metric("tv3sd_streams_lost_total") == 0


def test_a_redis_with_a_certificate_of_nobody_s_is_away(tiny_model, tmp_path, redis, frames):
    folder = tmp_path / "other"
    folder.mkdir()
    with Stunnel(tmp_path, redis.port, redis.tls_port, Authority(folder)), replica(tiny_model, tmp_path / "a", redis) as a:
        a.wait_for(lambda: b"redis is away" in a.get("/readyz").body and b"refused" not in a.get("/readyz").body)
        assert a.request("PUT", "/v1/streams/cam").status == 201
        assert redis.cli("DBSIZE") == b"0" and a.metric("tv3sd_store_away") == 1
