"""Some seconds of what `make soak` does for minutes, and that it sees what it looks for. Whether a rate is held is the
machine's affair, and no test's."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from conftest import HERE

sys.path.append(os.path.join(HERE, "load"))
import chaos  # noqa: E402
import soak  # noqa: E402

STREAMS, IMAGES = 8, 10


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(soak, "CALIBRATE", 0.2)
    monkeypatch.setattr(soak, "PART", 1)
    monkeypatch.setattr(soak, "BATCHES", (2,))
    monkeypatch.setattr(soak, "GROWTH_MB", {"daemon": 32, "decoders": 32, "nginx": 32})


def run(rig: soak.Rig) -> dict:
    result = soak.run(rig, STREAMS, 3, share=0.5, every=0.2, rate=40)
    assert result["soak"]["sent"] > IMAGES and len(result["looks"]) > 1
    return result


def failed(result: dict) -> set[str]:
    return {name for name, holds in result["checks"].items() if not holds} - {"rate_held"}


def test_streams_through_nginx_get_their_masks_and_leave_nothing_behind(tiny_model, tmp_path):
    with soak.started(tiny_model, tmp_path, IMAGES, ASAN_OPTIONS=chaos.ASAN) as rig:
        result = run(rig)
        assert failed(result) == set(), json.dumps(result)
        assert {one["connections"] for one in result["looks"]} == {STREAMS}
        assert rig.nginx.tls_port != rig.nginx.port and "ssl_certificate" in open(rig.nginx.path("nginx.conf")).read()


def test_a_wrong_mask_is_found(tiny_model, tmp_path):
    with soak.started(tiny_model, tmp_path, IMAGES) as rig:
        shutil.copy(rig.masks / "001.png", rig.masks / "004.png")
        result = run(rig)
    wrong = result["soak"]["errors"].pop("wrong mask")
    assert wrong == result["soak"]["sent"] - result["soak"]["masks_right"] > 0 and not result["soak"]["errors"]
    assert failed(result) == {"no_errors", "every_mask_right"}


def test_the_state_of_another_stream_is_found(tiny_model, tmp_path):
    """By its mask, without a look at the answer's flag: the tool's masks begin at another image."""
    with soak.started(tiny_model, tmp_path, IMAGES) as rig:
        rig.load.images = rig.load.images[1:]
        result = run(rig)
    assert failed(result) == {"no_errors", "every_mask_right"} and list(result["soak"]["errors"]) == ["wrong mask"]


def test_a_frame_that_fails_and_a_stream_that_is_closed_are_found(tiny_model, tmp_path):
    with soak.started(tiny_model, tmp_path, IMAGES) as rig:
        with open(rig.load.images[3], "wb") as f:
            f.write(b"\xff\xd8\xff no JPEG")
        look = rig.look

        def look_and_delete(*args) -> dict:
            rig.daemon.request("DELETE", "/v1/streams/soak-5")
            return look(*args)
        rig.look = look_and_delete
        result = run(rig)
    errors = result["soak"]["errors"]
    assert errors["closed: deleted"] == 1 and 0 < errors["frame bad-format"] <= result["soak"]["failed"]
    assert "wrong mask" not in errors   # streams whose frame failed begin anew
    assert {"no_errors", "every_mask_right", "daemon_counts_the_same", "all_connected"} <= failed(result)


def test_memory_that_grows_is_found(tiny_model, tmp_path):
    library = tmp_path / "leak.so"
    subprocess.run(["cc", "-D_GNU_SOURCE", "-fPIC", "-shared", "-o", library, os.path.join(HERE, "preload/leak.c")], check=True)
    with soak.started(tiny_model, tmp_path, IMAGES, LD_PRELOAD=str(library), LEAK_BYTES=str(512 << 10),
                      ASAN_OPTIONS="detect_leaks=0:verify_asan_link_order=0:quarantine_size_mb=8") as rig:
        result = run(rig)
    assert failed(result) == {"memory_flat"} and result["growth_mb"]["daemon"] > soak.GROWTH_MB["daemon"]
