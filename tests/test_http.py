"""HTTP against the real daemon: images, streams, states, models, and what every answer has in common."""
from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import socket
import struct
import subprocess
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

import cases
import masks
from conftest import CLASSES, PALETTE, TV3S
from daemon import PATIENCE, Daemon

SIZE = (64, 96)  # height, width


def image(frame: np.ndarray, kind="PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, kind)
    return out.getvalue()


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return cases.frames(SIZE, 5, 11)


@pytest.fixture(scope="module")
def pngs(frames) -> list[bytes]:
    return [image(f) for f in frames]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, tiny_model, frames):
    """{mode: [masks as `tv3s segment` writes them]}"""
    folder = tmp_path_factory.mktemp("frames")
    masks.images(folder / "in", frames)
    out = {}
    for mode in ("stream", "frame"):
        subprocess.run([TV3S, "segment", tiny_model, folder / "in", "-o", f"{folder}/{mode}/", "--mode", mode],
                       check=True, capture_output=True)
        out[mode] = [p.read_bytes() for p in sorted((folder / mode).iterdir())]
    return out


def multipart(body: bytes, *names: str, boundary="-x-") -> tuple[bytes, str]:
    parts = "".join(f'--{boundary}\r\nContent-Disposition: form-data; name="{n}"; filename="a"\r\n\r\n@\r\n'
                    for n in names)
    return ((parts + f"--{boundary}--\r\n").encode().replace(b"@", body),
            f"multipart/form-data; boundary={boundary}")


def raw_exchange(d: Daemon, request: bytes) -> bytes:
    """What the daemon says; it may hang up before it has read all."""
    out = b""
    with socket.create_connection(("127.0.0.1", d.http_port), timeout=60) as s:
        with contextlib.suppress(OSError):
            s.sendall(request)
            s.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while piece := s.recv(65536):
                out += piece
    return out


# ------------------------------------------------------------------------------------------------ single images
def test_an_image_gets_the_mask_that_the_tool_writes(daemon, pngs, labelled):
    r = daemon.request("POST", "/v1/segment", pngs[2])
    assert r.status == 200 and r.headers["Content-Type"] == "image/png"
    assert r.body == labelled["frame"][2]
    assert r.headers["X-Tv3s-Size"] == "96x64" and r.headers["X-Tv3s-Seq"] == "0"
    assert int(r.headers["X-Tv3s-Compute-Us"]) > 0 and int(r.headers["X-Tv3s-Queue-Us"]) >= 0


def test_the_form_of_a_body_does_not_matter(daemon, pngs, labelled):
    body, kind = multipart(pngs[2], "file")
    assert daemon.request("POST", "/v1/segment", body, Content_Type=kind).body == labelled["frame"][2]
    body, kind = multipart(pngs[2], "picture")
    assert daemon.request("POST", "/v1/segment", body, Content_Type=kind).body == labelled["frame"][2]
    chunked = daemon.request("POST", "/v1/segment", iter([pngs[2][:100], pngs[2][100:]]))
    assert chunked.body == labelled["frame"][2]


@pytest.mark.parametrize("order", "<>")
def test_a_png_is_turned_as_its_exif_says(daemon, pngs, order):
    """Pillow turns it as it should be, and writes EXIF of either byte order."""
    exif = Image.Exif()
    exif[0x0112], exif.endian = 6, order
    lying, upright = io.BytesIO(), io.BytesIO()
    Image.open(io.BytesIO(pngs[2])).save(lying, "PNG", exif=exif.tobytes())
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(lying.getvalue())))
    turned.save(upright, "PNG", exif=b"")
    assert turned.size == (64, 96)
    got, want = (daemon.request("POST", "/v1/segment", p.getvalue()) for p in (lying, upright))
    assert got.headers["X-Tv3s-Size"] == "64x96" and got.body == want.body


@pytest.mark.parametrize("name", ["raw", "rle", "coco_rle", "overlay", "labels"])
def test_every_format_holds_the_same_labels(daemon, pngs, labelled, frames, name):
    want = masks.png(labelled["frame"][0], PALETTE)
    r = daemon.request("POST", f"/v1/segment?format={name}", pngs[0])
    assert r.status == 200
    if name == "raw":
        assert np.array_equal(np.frombuffer(r.body, np.uint8).reshape(SIZE), want)
    elif name in ("rle", "coco_rle"):
        o = r.json()
        assert np.array_equal(masks.rle(o) if name == "rle" else masks.coco(o), want)
        assert "frame" not in o and "time" not in o
    elif name == "overlay":
        blend = (frames[0].astype(int) + np.array(PALETTE)[want] + 1) // 2
        assert np.array_equal(np.array(Image.open(io.BytesIO(r.body))), blend)
    else:
        assert np.array_equal(masks.png(r.body), want)


def test_gzip_when_it_pays_and_is_wanted(daemon, frames):
    big = image(np.repeat(np.repeat(frames[0], 4, 0), 4, 1))
    for name in ("raw", "rle", "png"):
        plain = daemon.request("POST", f"/v1/segment?format={name}", big)
        zipped = daemon.request("POST", f"/v1/segment?format={name}", big, Accept_Encoding="gzip")
        refused = daemon.request("POST", f"/v1/segment?format={name}", big, Accept_Encoding="gzip;q=0, identity")
        assert "Content-Encoding" not in plain.headers and "Content-Encoding" not in refused.headers
        assert refused.body == plain.body
        if name == "png":   # compressed already
            assert "Content-Encoding" not in zipped.headers and "Vary" not in zipped.headers
            assert zipped.body == plain.body
        else:
            assert zipped.headers["Content-Encoding"] == "gzip" and len(zipped.body) < len(plain.body)
            assert gzip.decompress(zipped.body) == plain.body
            assert plain.headers["Vary"] == zipped.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize("path", ["/v1/models", "/openapi.json", "/metrics"])
def test_text_is_compressed_for_those_who_take_it(daemon, path):
    plain, zipped = daemon.get(path), daemon.get(path, Accept_Encoding="br, gzip;q=0.5")
    assert "Content-Encoding" not in plain.headers and zipped.headers["Content-Encoding"] == "gzip"
    assert plain.headers["Vary"] == zipped.headers["Vary"] == "Accept-Encoding"
    assert len(zipped.body) == int(zipped.headers["Content-Length"]) < len(plain.body)
    text = gzip.decompress(zipped.body)
    assert len(text) > 500 and (path == "/metrics" or text == plain.body)
    head = daemon.request("HEAD", path, Accept_Encoding="gzip")
    assert head.headers["Content-Encoding"] == "gzip" and head.body == b""


def test_what_is_short_goes_as_it_is(daemon):
    r = daemon.get("/v1/nothing", Accept_Encoding="gzip")
    assert (r.status, r.problem()) == (404, "not-found") and "Content-Encoding" not in r.headers
    assert r.headers["Vary"] == "Accept-Encoding"


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is large, in a few bytes."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(b"\0" * 4096)) + chunk(b"IEND", b""))


def animated() -> bytes:
    out = io.BytesIO()
    first, second = (Image.new("RGB", (96, 64), c) for c in ("red", "blue"))
    first.save(out, "WEBP", save_all=True, append_images=[second])
    return out.getvalue()


@pytest.mark.parametrize("body, status, problem", [
    (b"", 400, "bad-argument"),
    (b"this is no image", 415, "unsupported"),
    (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415, "unsupported"),
    (bomb(60000, 60000), 413, "over-limit"),
    (bomb(16000, 16000), 413, "over-limit"),
    (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, 422, "bad-format"),
    (animated(), 415, "unsupported"),
])
def test_a_bad_image_is_refused_with_its_reason(daemon, body, status, problem):
    r = daemon.request("POST", "/v1/segment", body)
    assert (r.status, r.problem()) == (status, problem)
    assert r.json()["detail"]


def test_a_truncated_image_is_refused(daemon, pngs):
    r = daemon.request("POST", "/v1/segment", pngs[0][:300])
    assert (r.status, r.problem()) == (422, "bad-format")


@pytest.mark.parametrize("kind, status", [
    ("application/x-www-form-urlencoded", 415),
    ("multipart/mixed; boundary=x", 415),
    ("multipart/form-data", 400),
])
def test_a_wrong_content_type_is_refused(daemon, pngs, kind, status):
    r = daemon.request("POST", "/v1/segment", pngs[0], Content_Type=kind)
    assert r.status == status and r.problem() and kind.split(";")[0].split("/")[0] in r.json()["detail"] or status == 400


def test_a_form_must_hold_one_file_and_nothing_else(daemon, pngs):
    body, kind = multipart(pngs[0], "file", "other")
    assert daemon.request("POST", "/v1/segment", body, Content_Type=kind).status == 400
    body, kind = multipart(pngs[0])
    assert daemon.request("POST", "/v1/segment", body, Content_Type=kind).status == 400
    field = b'---x-\r\nContent-Disposition: form-data; name="format"\r\n\r\nrle\r\n---x---\r\n'
    r = daemon.request("POST", "/v1/segment", field, Content_Type=kind)
    assert r.status == 400 and "format" in r.json()["detail"]
    body, kind = multipart(pngs[0], "file")
    assert daemon.request("POST", "/v1/segment", body[:-30], Content_Type=kind).status in (400, 422)


def named_part(head: str, body: bytes) -> tuple[bytes, str]:
    form = b'---x-\r\nContent-Disposition: form-data; name="file"' + head.encode() + b"\r\n\r\n" + body + b"\r\n---x---\r\n"
    return form, "multipart/form-data; boundary=-x-"


@pytest.mark.parametrize("target", ["/v1/segment", "/v1/videos", "/v1/streams/form/frames"])
def test_a_name_in_a_files_place_is_told_from_a_file(daemon, pngs, tmp_path, target):
    """curl -F file=PATH sends the path; a picture whose part has no name of a file is one all the same."""
    assert daemon.request("PUT", "/v1/streams/form").status in (200, 201)
    jobs = len(daemon.json("/v1/videos")["videos"])
    (tmp_path / "clip.png").write_bytes(pngs[0])
    done = subprocess.run(["curl", "-sS", "--noproxy", "*", "-F", "file=clip.png",
                           f"http://127.0.0.1:{daemon.http_port}{target}"], cwd=tmp_path, capture_output=True)
    told = json.loads(done.stdout)
    assert (told["status"], told["type"]) == (400, "/problems/bad-argument") and "-F file=@PATH" in told["detail"]
    for head, body in (("", b""), ("\r\nContent-Type: text/plain; charset=UTF-8", "clip \u00e9\n".encode())):
        form, kind = named_part(head, body)
        r = daemon.request("POST", target, form, Content_Type=kind)
        assert r.status == 400 and "-F file=@PATH" in r.json()["detail"], r.body
    assert len(daemon.json("/v1/videos")["videos"]) == jobs
    for head in ("", "\r\nContent-Type: image/png", "\r\nContent-Type: text/plain"):
        form, kind = named_part(head, pngs[0])
        r = daemon.request("POST", target, form, Content_Type=kind)
        assert r.status == (202 if target == "/v1/videos" else 200), r.body
    form, kind = named_part('; filename="letter"', b"Dear daemon")  # a file indeed, of nothing that is known
    assert daemon.request("POST", target, form, Content_Type=kind).status == (202 if target == "/v1/videos" else 415)
    daemon.request("DELETE", "/v1/streams/form")
    for job in daemon.json("/v1/videos")["videos"]:
        daemon.finish(job["id"])


@pytest.mark.parametrize("query, word", [
    ("?format=jpeg", "jpeg"), ("?formt=png", "'formt' here, but model format resize"), ("?format=png&format=png", "twice"), ("?mode=frame", "mode"),
    ("?resize=10x10", "10x10"), ("?resize=1e3x64", "1e3x64"), ("?format", "format"), ("?format=pn%00g", "zero"),
])
def test_a_wrong_parameter_is_an_error(daemon, pngs, query, word):
    r = daemon.request("POST", "/v1/segment" + query, pngs[0])
    assert (r.status, r.problem()) == (400, "bad-argument") and word in r.json()["detail"]


def test_an_unknown_model_is_not_found(daemon, pngs):
    r = daemon.request("POST", "/v1/segment?model=other", pngs[0])
    assert (r.status, r.problem()) == (404, "not-found")


def test_resize_changes_the_network_input_alone(daemon, pngs, labelled):
    r = daemon.request("POST", "/v1/segment?resize=64x64", pngs[0])
    assert r.status == 200 and masks.png(r.body, PALETTE).shape == SIZE and r.body != labelled["frame"][0]


# ------------------------------------------------------------------------------------------------------ streams
def post(d: Daemon, stream: str, body: bytes, **headers) -> bytes:
    r = d.request("POST", f"/v1/streams/{stream}/frames", body, **headers)
    assert r.status == 200, r.body
    return r.body


def test_a_stream_remembers(daemon, pngs, labelled):
    assert daemon.request("PUT", "/v1/streams/a").status == 201
    assert [post(daemon, "a", p) for p in pngs] == labelled["stream"]
    assert labelled["stream"] != labelled["frame"]
    s = daemon.json("/v1/streams/a")
    assert (s["frames"], s["last_seq"], s["size"], s["connected"]) == (5, 4, [96, 64], False)
    assert s["state_bytes"] > 0 and 0 <= s["idle"] < 60 and s["mode"] == "stream" and s["model"] == "tiny"
    assert daemon.request("POST", "/v1/streams/a/reset").status == 204
    assert post(daemon, "a", pngs[0]) == labelled["stream"][0]
    assert daemon.request("DELETE", "/v1/streams/a").status == 204
    assert daemon.get("/v1/streams/a").status == 404
    assert daemon.request("POST", "/v1/streams/a/frames", pngs[0]).status == 404


def test_a_stream_is_made_once(daemon):
    first = daemon.request("PUT", "/v1/streams/once?format=rle")
    again = daemon.request("PUT", "/v1/streams/once?format=rle")
    other = daemon.request("PUT", "/v1/streams/once?mode=clip&format=rle")
    assert (first.status, again.status, other.status) == (201, 200, 409)
    assert daemon.request("PUT", "/v1/streams/once").json()["format"] == "rle"
    assert daemon.request("PUT", "/v1/streams/once?format=png").problem() == "conflict"
    assert other.problem() == "conflict" and first.headers["Location"] == "/v1/streams/once"
    assert "once" in [s["id"] for s in daemon.json("/v1/streams")["streams"]]
    daemon.request("DELETE", "/v1/streams/once")


def test_the_server_makes_ids(daemon):
    r = daemon.request("POST", "/v1/streams?format=raw")
    s = r.json()
    assert r.status == 201 and len(s["id"]) == 22 and r.headers["Location"] == "/v1/streams/" + s["id"]
    assert s["format"] == "raw" and s["size"] is None and s["last_seq"] == -1
    assert daemon.request("DELETE", r.headers["Location"]).status == 204


@pytest.mark.parametrize("name, status, word", [
    ("a%2Fb", 400, "slash"), ("a%2fstate", 400, "slash"), ("%2e%2e%2fa", 400, "slash"), ("a%00b", 400, "zero"),
    ("a%20b", 400, "stream ID"), ("%C3%A4", 400, "stream ID"), ("a%25b", 400, "stream ID"), (129 * "x", 400, "long"),
    (3000 * "x", 400, "long"), ("a/b/c", 404, "path"), ("a/../b", 404, "path"), ("", 404, "path"),
])
def test_a_bad_stream_id_is_refused(daemon, name, status, word):
    r = daemon.request("PUT", f"/v1/streams/{name}")
    assert r.status == status and r.problem() and word in r.json()["detail"]
    assert daemon.json("/v1/streams")["streams"] == []


@pytest.mark.parametrize("name", [128 * "x", "..", "-._~", "%61"])
def test_a_stream_id_is_a_name_and_nothing_else(daemon, name):
    r = daemon.request("PUT", f"/v1/streams/{name}")
    want = name.replace("%61", "a")
    assert r.status == 201 and r.json()["id"] == want and r.headers["Location"] == f"/v1/streams/{want}"
    assert daemon.request("DELETE", f"/v1/streams/{name}").status == 204


@pytest.mark.parametrize("body", [b"", b"x", b"\0" * 8, b"\xff" * 4096, (1 << 62).to_bytes(8, "little") + b"{}",
                                  (2).to_bytes(8, "little") + b"{}", b"\x89PNG\r\n\x1a\n" + bytes(99)], ids=range(7))
def test_a_state_that_is_none_is_refused_and_the_old_one_stays(daemon, pngs, labelled, body):
    daemon.request("PUT", "/v1/streams/import")
    assert post(daemon, "import", pngs[0]) == labelled["stream"][0]
    r = daemon.request("PUT", "/v1/streams/import/state", body)
    assert r.status in (400, 422) and r.problem() and r.json()["detail"]
    assert post(daemon, "import", pngs[1]) == labelled["stream"][1]
    daemon.request("DELETE", "/v1/streams/import")


def test_two_streams_do_not_mix(daemon, pngs, labelled):
    for name in ("m1", "m2"):
        daemon.request("PUT", f"/v1/streams/{name}")
    for i, p in enumerate(pngs[:3]):
        assert post(daemon, "m1", p) == labelled["stream"][i]
        assert post(daemon, "m2", p) == labelled["stream"][i]
    for name in ("m1", "m2"):
        daemon.request("DELETE", f"/v1/streams/{name}")


def test_a_bad_frame_fails_alone(daemon, pngs, labelled):
    daemon.request("PUT", "/v1/streams/bad")
    assert post(daemon, "bad", pngs[0]) == labelled["stream"][0]
    assert daemon.request("POST", "/v1/streams/bad/frames", pngs[1][:200]).status == 422
    assert post(daemon, "bad", pngs[1]) == labelled["stream"][1]
    daemon.request("DELETE", "/v1/streams/bad")


def test_another_size_begins_anew_and_says_so(daemon, pngs, frames):
    daemon.request("PUT", "/v1/streams/size")
    post(daemon, "size", pngs[0])
    r = daemon.request("POST", "/v1/streams/size/frames", image(frames[1][:, :64]))
    assert r.headers["X-Tv3s-Restarted"] == "1" and r.headers["X-Tv3s-Size"] == "64x64"
    daemon.request("DELETE", "/v1/streams/size")


def test_a_state_travels(daemon, pngs, labelled):
    for name in ("from", "to"):
        daemon.request("PUT", f"/v1/streams/{name}")
    for p in pngs[:3]:
        post(daemon, "from", p)
    state = daemon.get("/v1/streams/from/state")
    assert state.status == 200 and state.headers["Content-Type"] == "application/x-safetensors"
    assert daemon.request("PUT", "/v1/streams/to/state", state.body).status == 204
    assert [post(daemon, "to", p) for p in pngs[3:]] == labelled["stream"][3:]
    assert daemon.get("/v1/streams/from/state").body == state.body
    r = daemon.request("PUT", "/v1/streams/to/state", state.body[:-8])
    assert r.status == 422 and r.problem() == "bad-format"
    for name in ("from", "to"):
        daemon.request("DELETE", f"/v1/streams/{name}")


# ---------------------------------------------------------------------------------------------- models and health
def test_models_are_described(daemon):
    listed = daemon.json("/v1/models")["models"]
    assert [m["name"] for m in listed] == ["tiny"]
    m = daemon.json("/v1/models/tiny")
    assert m == listed[0] and [c["name"] for c in m["classes"]] == CLASSES
    assert m["classes"][1] == {"id": 1, "name": "road", "color": "#fa0007"}
    assert m["resize"] == "native" and m["dtype"] == "f32" and m["output"] == "direct"
    assert daemon.get("/v1/models/other").status == 404


def test_health(daemon):
    assert daemon.get("/livez").status == 200
    assert daemon.get("/readyz").status == 200


def test_metrics_count(daemon, pngs):
    name = 'tv3sd_frames_total{kind="single",outcome="ok"}'
    before = daemon.metric(name)
    daemon.request("POST", "/v1/segment", pngs[0])
    assert daemon.metric(name) == before + 1
    assert daemon.metric('tv3sd_connections{protocol="http"}') >= 1


# --------------------------------------------------------------------------------------------------- all of HTTP
def test_unknown_paths_and_methods(daemon):
    r = daemon.get("/v1/nothing")
    assert (r.status, r.problem()) == (404, "not-found")
    r = daemon.get("/v1/streams/a/ws?credit=4")
    assert (r.status, r.problem()) == (404, "not-found") and "WebSockets are not on this port" in r.json()["detail"]
    r = daemon.request("PATCH", "/v1/streams/a")
    assert (r.status, r.problem()) == (405, "method") and "PUT" in r.json()["detail"]
    assert set(r.headers["Allow"].split(", ")) == {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}
    r = daemon.request("OPTIONS", "/v1/videos")
    assert r.status == 204 and "POST" in r.headers["Allow"]
    r = daemon.request("HEAD", "/v1/models")
    assert r.status == 200 and r.body == b"" and int(r.headers["Content-Length"]) > 100
    assert daemon.request("POST", "/v1/nothing", b"x" * 100000).status == 404


def test_request_ids(daemon):
    assert daemon.get("/v1/models", X_Request_Id="abc.1-_Z").headers["X-Request-Id"] == "abc.1-_Z"
    for bad in ("a b", "x" * 65, "a\"b"):
        assert daemon.get("/livez", X_Request_Id=bad).headers["X-Request-Id"] not in (bad, "")
    daemon.wait_log("event=http request=abc.1-_Z")


def test_probes_that_are_well_are_in_the_log_at_debug_alone(tmp_path, tiny_model):
    for level, shown in (("info", 0), ("debug", 3)):
        with Daemon(tiny_model, tmp_path / level, "--log-level", level) as d:
            for path in ("/livez", "/readyz", "/metrics", "/metrics?a=b", "/v1/models"):
                assert d.get(path).status == (400 if "?" in path else 200)
        log = d.log()  # it has ended: all is there
        assert len(re.findall(r'target="/(livez|readyz|metrics)" status=200', log)) == shown
        assert 'target="/metrics?a=b" status=400' in log


def test_connections_are_kept(daemon, pngs):
    c = daemon.connect()
    for body in (pngs[0], b"no image", pngs[0]):
        c.request("POST", "/v1/segment", body)
        r = c.getresponse()
        r.read()
        assert r.status == (415 if body == b"no image" else 200)
    first = c.sock.getsockname()
    c.request("GET", "/livez")
    c.getresponse().read()
    assert c.sock.getsockname() == first
    c.close()


def test_a_body_that_is_announced_too_large_is_refused_at_once(daemon):
    head = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n"
    assert raw_exchange(daemon, head + b"Expect: 100-continue\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    assert raw_exchange(daemon, head + b"\r\n").startswith(b"HTTP/1.1 413 ")


def test_malformed_requests_are_refused(daemon):
    for bad in (b"\r\n\r\nnonsense\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100000 + b"\r\n\r\n",
                b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n"):
        answer = raw_exchange(daemon, bad)
        assert answer == b"" or answer[9:10] in (b"4", b"5"), answer
    assert daemon.get("/livez").status == 200


NEXT = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("head", [
    "POST /v1/segment HTTP/1.1|Host: localhost|Content-Length: 4|Transfer-Encoding: chunked",
    "POST /v1/segment HTTP/1.1|Host: localhost|Content-Length: 4|Content-Length: 40",
    "POST /v1/segment HTTP/1.1|Host: localhost|Content-Length : 4",
    "POST /v1/segment HTTP/1.1|Host: localhost|Content-Length: 18446744073709551615",
    "POST /v1/segment HTTP/1.1|Host: localhost|Transfer-Encoding: chunked|Transfer-Encoding: identity",
    "POST /v1/segment HTTP/1.1|Host: localhost|Transfer-Encoding: gzip, chunked",
    "POST /v1/segment HTTP/1.1|Host: localhost|Transfer-Encoding: xchunked",
    "POST /v1/segment HTTP/1.0|Host: localhost|Transfer-Encoding: chunked",
    "GET /livez HTTP/1.1|Host: localhost|Transfer-Encoding: identity",
    "GET /livez HTTP/1.1|Host: localhost|Host: evil.example",
    "GET /livez HTTP/1.1|Accept: */*",
])
def test_a_request_that_can_be_read_in_two_ways_is_the_last_of_its_connection(daemon, head):
    answer = raw_exchange(daemon, "\r\n".join(head.split("|")).encode() + b"\r\n\r\n0\r\n\r\n" + NEXT)
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1
    assert b'"type":"/problems/bad-argument"' in answer and b'"detail":"' in answer


def test_requests_may_come_before_the_answers_of_those_before_them(daemon):
    body = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
    answers = raw_exchange(daemon, 50 * (NEXT + body))
    assert re.findall(rb"HTTP/1.1 (\d+) ", answers) == 50 * [b"200", b"415"]


def test_a_query_of_too_many_parts_leaves_nothing(daemon):
    """libmicrohttpd tells of such a request's begin and not of its end; a stop would wait for it, and its memory stay."""
    answer = raw_exchange(daemon, b"GET /v1/models?" + 10000 * b"a&" + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer == b"" or answer[9:10] == b"4"
    daemon.wait_log(r'event=http .*target="/v1/models\?a&a.*broken=1')


def test_clients_that_go_away_leave_nothing(daemon, pngs):
    daemon.request("PUT", "/v1/streams/gone")
    request = b"POST /v1/streams/gone/frames HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(pngs[0])
    for cut in (10, len(request), len(request) + 50, len(request) + len(pngs[0])):
        with socket.create_connection(("127.0.0.1", daemon.http_port)) as s:
            s.sendall((request + pngs[0])[:cut])
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end = time.monotonic() + 60
    while daemon.metric('tv3sd_connections{protocol="http"}') > 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert daemon.metric('tv3sd_connections{protocol="http"}') == 1
    daemon.request("DELETE", "/v1/streams/gone")
    assert daemon.get("/v1/streams/gone").status == 404


def test_a_slow_sender_delays_nobody(daemon, pngs, labelled):
    with socket.create_connection(("127.0.0.1", daemon.http_port)) as s:
        s.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(pngs[0]))
        s.sendall(pngs[0][:10])
        assert daemon.request("POST", "/v1/segment", pngs[2]).body == labelled["frame"][2]
        s.sendall(pngs[0][10:])
        assert s.recv(12) == b"HTTP/1.1 200"


def test_sixteen_interleaved_streams_of_three_sizes_have_the_tools_masks(daemon, tiny_model, tmp_path):
    clips, want = [cases.frames(size, 4, i) for i, size in enumerate([(64, 64), (48, 96), (72, 98)])], []
    for i, clip in enumerate(clips):
        masks.images(tmp_path / f"in{i}", clip)
        subprocess.run([TV3S, "segment", tiny_model, tmp_path / f"in{i}", "-o", f"{tmp_path}/{i}/"], check=True, capture_output=True)
        want.append([p.read_bytes() for p in sorted((tmp_path / str(i)).iterdir())])
    bodies, results = [[image(f) for f in clip] for clip in clips], {}

    def work(number):
        daemon.request("PUT", f"/v1/streams/p{number}")
        results[number] = [post(daemon, f"p{number}", body) for body in bodies[number % 3]]
        daemon.request("DELETE", f"/v1/streams/p{number}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert results == {n: want[n % 3] for n in range(16)}


# --------------------------------------------------------------------------------------------------- configured
def test_cors_limits_and_the_end(tmp_path, tiny_model, pngs):
    with Daemon(tiny_model, tmp_path / "spool", "--cors-origins", "https://a.example,https://b.example",
                "--max-image", "20000", "--max-streams", "1") as d:
        r = d.get("/v1/models", Origin="https://b.example")
        assert r.headers["Access-Control-Allow-Origin"] == "https://b.example"
        exposed = r.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"X-Request-Id", "Retry-After"} <= set(exposed)
        spec = json.dumps(d.json("/openapi.json"))
        assert set(re.findall("X-Tv3s-[A-Za-z-]+", spec)) <= set(exposed)
        assert "Access-Control-Allow-Origin" not in d.get("/v1/models", Origin="https://c.example").headers
        r = d.request("OPTIONS", "/v1/segment", Origin="https://a.example", Access_Control_Request_Method="POST")
        assert r.status == 204 and "POST" in r.headers["Access-Control-Allow-Methods"]
        assert "Content-Type" in r.headers["Access-Control-Allow-Headers"]

        r = d.request("POST", "/v1/segment", b"x" * 20001)
        assert (r.status, r.problem()) == (413, "over-limit")
        r = d.request("POST", "/v1/segment", iter([b"x" * 15000] * 3))
        assert (r.status, r.problem()) == (413, "over-limit")

        endless = b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection(("127.0.0.1", d.http_port)) as s:
            s.sendall(endless)
            s.settimeout(60)
            with pytest.raises(OSError):
                for _ in range(100000):
                    s.sendall(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")

        assert d.request("POST", "/v1/streams").status == 201
        r = d.request("POST", "/v1/streams")
        assert (r.status, r.problem()) == (503, "overloaded") and int(r.headers["Retry-After"]) >= 1
        assert d.request("POST", "/v1/segment", pngs[0]).status == 200
        assert d.stop() == 0


REFUSED = b"POST /v1/videos?format=jpeg HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n"


def test_who_is_refused_while_he_sends_reads_why(daemon):
    with socket.create_connection(("127.0.0.1", daemon.http_port), timeout=PATIENCE) as s:
        s.sendall(REFUSED)
        for _ in range(128):  # long after the answer
            s.sendall(bytes(1 << 16))
        answer = s.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ") and b"jpeg" in answer


def test_who_is_refused_and_sends_on_and_on_is_hung_up_on(daemon):
    with socket.create_connection(("127.0.0.1", daemon.http_port), timeout=PATIENCE) as s:
        s.sendall(REFUSED)
        with pytest.raises(ConnectionError):
            for _ in range(1 << 13):
                s.sendall(bytes(1 << 16))
