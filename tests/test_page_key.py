"""The web page before a daemon that has API keys: it asks for one, and does everything with it."""
from __future__ import annotations

import os

import pytest

from daemon import Daemon
from keys import new_key
from page_rig import chromium, clip, drawn, tool, upload  # noqa: F401


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys.json"
    return {"file": file, "user": new_key(file, "user", "submit,stream,read"), "other": new_key(file, "other")}


@pytest.fixture
def daemon(keys, tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "spool", "--keys-file", keys["file"], key=keys["user"]) as d:
        yield d


def enter(page, key: str) -> None:
    page.by("#key").send_keys(key)
    page.by("#key-form button").click()


def test_a_page_with_a_key(chromium, daemon, keys, clip, tiny_model, tmp_path):  # noqa: F811
    page = chromium
    page.forget()
    page.driver.get(f"http://127.0.0.1:{daemon.http_port}/")
    page.wait("!document.querySelector('#key-form').hidden")
    enter(page, "tv3s_" + "x" * 43)
    page.wait("document.querySelector('#notice p').textContent.includes('does not know this key')")
    enter(page, keys["user"])
    page.wait("document.documentElement.dataset.ready")
    assert page.get("document.querySelector('#notice').hidden")

    page.driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    upload(page, clip)
    page.wait("document.querySelector('#results li[data-format=png] a')")
    page.by("#results li[data-format=png] a").click()
    job = daemon.json("/v1/videos")["videos"][0]["id"]
    name = os.path.basename(clip).replace(".mp4", ".zip")
    daemon.wait_for((tmp_path / name).exists)
    assert (tmp_path / name).read_bytes() == daemon.get(f"/v1/videos/{job}/masks").body
    page.wait("document.tv3s.video.player.frame !== undefined && document.tv3s.video.stage.mask")
    want = tool(tiny_model, clip, tmp_path / "want.zip")
    frame = page.get("document.tv3s.video.player.frame")
    assert (drawn(page) == want[frame]).all()

    page.by("#tab-live").click()
    page.js("document.querySelector('input[name=source][value=file]').click()")
    page.by("#live-file").send_keys(clip)
    page.by("#live-start").click()
    page.wait("document.tv3s.live.stream?.open")
    stream = page.get("document.tv3s.live.id")
    daemon.wait_for(lambda: daemon.json("/v1/streams/" + stream)["frames"] > 2)
    page.by("#live-start").click()

    page.by("#tab-server").click()
    page.wait("document.querySelector('#pulse').dataset.state === 'ready'")  # though this key may not ask for metrics

    page.driver.refresh()  # the tab knows the key
    page.wait("document.documentElement.dataset.ready")
    assert page.get("document.querySelector('#key-form').hidden")
    assert not [u for u in page.requests() if keys["user"] in u]  # no log holds it
    page.js("sessionStorage.clear()")
    page.forget()
