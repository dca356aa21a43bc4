"""The page in a real browser, for test_page*.py: a daemon, Chromium, clips, and what is drawn."""
from __future__ import annotations

import os
import re
import subprocess

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

import cases
import masks
from browser import Browser
from conftest import HERE, PALETTE, TV3S
from daemon import Daemon

STREET = os.path.join(HERE, "../models/street.mp4")
MODEL = os.path.join(HERE, "../models/street.safetensors")
OURS = r"(http|ws)://127\.0\.0\.1:\d+/|blob:http://127\.0\.0\.1|about:|data:"
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "8")


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory):
    with Daemon(tiny_model, tmp_path_factory.mktemp("page") / "spool") as d:
        yield d


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("chromium")) as b:
        yield b


@pytest.fixture
def page(chromium, daemon):
    """The page, fresh. At the end: no error on the console, nothing asked of others."""
    chromium.forget()
    chromium.open(daemon)
    chromium.allowed = None
    yield chromium
    errors = [e for e in chromium.log() if not (chromium.allowed and re.search(chromium.allowed, e))]
    outside = [u for u in chromium.requests() if not re.match(OURS, u)]
    chromium.forget()
    for job in daemon.json("/v1/videos")["videos"]:
        daemon.request("DELETE", "/v1/videos/" + job["id"])
    assert errors == [] and outside == []


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """Sixteen frames of 96x64, each unlike the others."""
    return masks.video(tmp_path_factory.mktemp("clip") / "clip.mp4", cases.frames((64, 96), 16, 5), *X264)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory) -> str:
    """The bundled clip six times: 900 frames."""
    out = tmp_path_factory.mktemp("long") / "street6.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-stream_loop", "5", "-i", STREET, "-c", "copy",
                    "-movflags", "+faststart", out], check=True)
    return str(out)


def tool(model, source, out, *options) -> list[np.ndarray]:
    """The masks of `tv3s segment`."""
    subprocess.run([TV3S, "segment", model, source, "-o", out, "--format", "png", *options], check=True, capture_output=True)
    return masks.zipped(out, PALETTE) if str(out).endswith(".zip") else masks.folder(out, PALETTE)


def drawn(page, which="video") -> np.ndarray:
    mask = f"document.tv3s.{which}.stage.mask"
    w, h = page.get(f"[{mask}.width, {mask}.height]")
    return np.frombuffer(page.bytes(mask + ".labels"), np.uint8).reshape(h, w)


def upload(page, path) -> None:
    page.by("#file").send_keys(os.path.abspath(path))


def succeeded(page) -> None:
    """And at rest on the first frame: a page that follows a job goes on by itself."""
    page.wait("document.querySelector('#results a') && !document.querySelector('#seek').disabled")
    page.by("#seek").send_keys(Keys.END, Keys.HOME)
    page.wait("document.tv3s.video.player.frame === 0")
