"""Live streams as packets of the browser's encoders: what the page draws is what `tv3s segment` says of a file of them."""
from __future__ import annotations

import struct

import pytest

from daemon import Daemon
from page_rig import chromium, clip, daemon, page, tool  # noqa: F401
from proxy import Proxy
from test_page_live import live, sent_frames, stopped

CODECS = {"h264": None, "vp8": b"VP80", "vp9": b"VP90", "av1": b"AV01"}


def film(packets: list[bytes], codec: str, folder) -> str:
    """A file of them: Annex B, or IVF."""
    path = folder / f"film.{'ivf' if CODECS[codec] else codec}"
    with open(path, "wb") as f:
        if CODECS[codec]:
            f.write(struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, CODECS[codec], 96, 64, 25, 1, len(packets), 0))
        for i, p in enumerate(packets):
            f.write((struct.pack("<IQ", len(p), i) if CODECS[codec] else b"") + p)
    return str(path)


def check(page, model, codec, folder) -> None:
    sent = sent_frames(page)
    numbers = page.get("drawn.map(d => d.seq)")
    assert list(sent) == list(range(len(sent))) and len(numbers) > 5
    want = tool(model, film(list(sent.values()), codec, folder), f"{folder}/want/")
    assert len(want) == len(sent)
    for k, n in enumerate(numbers):
        assert page.bytes(f"drawn[{k}].labels") == want[n].tobytes(), n


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_drawn_over_an_encoded_stream_are_the_masks_of_the_tool(page, tiny_model, clip, tmp_path, codec):
    page.wait(f"[...document.querySelectorAll('#live-encoding option')].some(o => o.value === '{codec}')")
    live(page, f"encoded-{codec}", clip, live_encoding=codec)
    page.wait("drawn.length >= 20")
    stopped(page)
    keys = page.get("wire.filter(w => w.kind === 'sent').map(w => w.key)")
    assert keys[0] and sum(keys) <= len(keys) / 4   # an encoder may make more of its own, where the picture changes much
    check(page, tiny_model, codec, tmp_path)


def test_a_lost_connection_goes_on_with_a_key_frame(chromium, tiny_model, clip, tmp_path):
    with Proxy() as proxy, Daemon(tiny_model, tmp_path / "spool", "--ws-url", f"ws://127.0.0.1:{proxy.port}") as d:
        proxy.target = d.ws_port
        chromium.open(d)
        chromium.wait("document.querySelector('#live-encoding option[value=vp8]')")
        live(chromium, "lost", clip, live_encoding="vp8")
        chromium.wait("drawn.length >= 6")
        proxy.cut()
        chromium.wait("wire.filter(w => w.kind === 'sent' && w.key).length === 2")
        before = chromium.get("drawn.length")
        chromium.wait(f"drawn.length >= {before + 6}")
        stopped(chromium)
        assert chromium.text("#notice") == ""
        assert d.json("/v1/streams/lost")["frames"] == len(sent_frames(chromium))
        check(chromium, tiny_model, "vp8", tmp_path)
        chromium.forget()


def test_the_encoding_may_change_while_a_stream_runs(page, daemon, clip):
    page.wait("document.querySelector('#live-encoding option[value=h264]')")
    live(page, "changes", clip, live_encoding="vp8")
    page.wait("drawn.length >= 3")
    page.js("const e = document.querySelector('#live-encoding'); e.value = 'h264'")
    page.wait("wire.filter(w => w.kind === 'sent' && w.codec === 1).length > 3")
    page.js("document.querySelector('#live-encoding').value = 'image/jpeg'")
    page.wait("wire.filter(w => w.kind === 'sent' && w.codec === 0).length > 3")
    stopped(page)
    assert daemon.json("/v1/streams/changes")["frames"] == page.get("wire.filter(w => w.kind === 'sent').length")
    assert page.get("document.querySelector('#notice').hidden")
