"""`tv3s segment` from real codecs to real files: what comes in is decoded as FFmpeg's own tool does it, what goes
out is read by somebody else."""
from __future__ import annotations

import json
import os
import pty
import subprocess

import numpy as np
import pytest
from PIL import Image, ImageOps

import cases
import masks
from conftest import PALETTE, SANITIZED, TV3S

X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "8")
FFV1 = ("-c:v", "ffv1", "-pix_fmt", "bgr0")


def run(model, source, out, *options, check=True, **kw) -> subprocess.CompletedProcess:
    done = subprocess.run([TV3S, "segment", model, source, "-o", out, *map(str, options)], capture_output=True,
                          text=True, **kw)
    assert not check or done.returncode == 0, done.stderr
    return done


def summary(*args) -> dict:
    return json.loads(run(*args, "--json", "--quiet").stdout)


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return cases.frames((72, 98), 12, 3)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, rgb) -> str:
    return masks.video(tmp_path_factory.mktemp("clip") / "clip.mp4", rgb, *X264)


@pytest.fixture(scope="module")
def labels(tmp_path_factory, tiny_model, clip) -> list:
    """The clip's masks by way of `raw`."""
    out = tmp_path_factory.mktemp("labels") / "labels.raw"
    run(tiny_model, clip, out)
    got = masks.raw(out, (98, 72))
    assert len(got) == 12 and len(np.unique(got)) > 2
    return got


def same(a, b) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b))


# ---------------------------------------------------------------------------------------------------- formats
def test_zip_holds_numbered_palette_pngs(tmp_path, tiny_model, clip, labels):
    run(tiny_model, clip, tmp_path / "o.zip")
    assert same(masks.zipped(tmp_path / "o.zip", PALETTE), labels)


def test_folder_holds_numbered_palette_pngs(tmp_path, tiny_model, clip, labels):
    run(tiny_model, clip, f"{tmp_path}/new/")
    assert same(masks.folder(tmp_path / "new", PALETTE), labels)
    (tmp_path / "there").mkdir()
    run(tiny_model, clip, tmp_path / "there")
    assert sorted(os.listdir(tmp_path / "there")) == [f"{i:06d}.png" for i in range(12)]


def test_rle_lines_have_frame_time_and_runs(tmp_path, tiny_model, clip, labels):
    run(tiny_model, clip, tmp_path / "o.jsonl")
    lines = masks.lines(tmp_path / "o.jsonl")
    assert same([masks.rle(o) for o in lines], labels)
    assert [o["frame"] for o in lines] == list(range(12))
    assert [o["time"] for o in lines] == pytest.approx(masks.times(clip), abs=1e-6)


def test_coco_strings_read_back(tmp_path, tiny_model, clip, labels):
    run(tiny_model, clip, tmp_path / "o.jsonl", "--format", "coco_rle")
    lines = masks.lines(tmp_path / "o.jsonl")
    assert same([masks.coco(o) for o in lines], labels)
    for o in lines:
        ids = [s["category_id"] for s in o["segments"]]
        assert ids == sorted(set(ids))


def test_labels_video_is_lossless(tmp_path, tiny_model, clip, labels):
    run(tiny_model, clip, tmp_path / "o.mkv")
    assert masks.probe(tmp_path / "o.mkv", "-show_entries", "stream=codec_name,pix_fmt").split() == ["ffv1,gray"]
    assert same(masks.decoded(tmp_path / "o.mkv", "gray", (72, 98)), labels)


def test_overlay_video_is_the_blend(tmp_path, tiny_model, clip, labels):
    run(tiny_model, clip, tmp_path / "o.mp4")
    kind = masks.probe(tmp_path / "o.mp4", "-show_entries", "stream=codec_name,pix_fmt,color_space").split()
    assert kind == ["h264,yuv420p,bt709"]
    got = masks.decoded(tmp_path / "o.mp4", "rgb24", (72, 98, 3)).astype(float)
    want = (masks.decoded(clip, "rgb24", (72, 98, 3)) + np.array(PALETTE)[np.array(labels)] + 1) // 2
    assert np.median(np.abs(got - want)) < 6 and np.abs(got - want).mean() < 12  # coded with loss
    assert masks.times(tmp_path / "o.mp4") == pytest.approx(masks.times(clip), abs=1e-6)


def test_format_option_goes_before_the_name(tmp_path, tiny_model, clip, labels):
    run(tiny_model, clip, tmp_path / "o.bytes", "--format", "raw")
    assert same(masks.raw(tmp_path / "o.bytes", (98, 72)), labels)
    run(tiny_model, clip, f"{tmp_path}/d/", "--format", "labels")
    assert same(masks.folder(tmp_path / "d", None), labels)
    run(tiny_model, clip, tmp_path / "o.zip", "--format", "labels")
    assert same(masks.zipped(tmp_path / "o.zip", None), labels)


@pytest.mark.parametrize("name, kind", [("o.mkv", "png"), ("o.png", "png"), ("o.mp4", "raw"), ("o.raw", "rle"),
                                        ("o.mkv", "overlay"), ("o.jsonl", "raw"), ("o.json", "png")])
def test_a_name_that_says_another_format_is_refused(tmp_path, tiny_model, clip, name, kind):
    done = run(tiny_model, clip, tmp_path / name, "--format", kind, check=False)
    assert done.returncode != 0 and "is a name for" in done.stderr and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("setting", ["OMP_THREAD_LIMIT=1", "OMP_DYNAMIC=true"])
def test_fewer_threads_than_asked_for_make_the_same_masks(tmp_path, tiny_model, setting):
    video = masks.video(tmp_path / "in.mkv", cases.frames((256, 384), 3, 4), "-c:v", "ffv1")
    run(tiny_model, video, tmp_path / "all.raw", "--threads", "2")
    name, _, value = setting.partition("=")
    run(tiny_model, video, tmp_path / "few.raw", "--threads", "2", env={**os.environ, name: value})
    assert (tmp_path / "few.raw").read_bytes() == (tmp_path / "all.raw").read_bytes()


def test_same_input_same_bytes(tmp_path, tiny_model, clip):
    for name in ("a.zip", "b.zip", "a.mkv", "b.mkv", "a.mp4", "b.mp4"):
        run(tiny_model, clip, tmp_path / name)
    for ext in ("zip", "mkv", "mp4"):
        assert (tmp_path / f"a.{ext}").read_bytes() == (tmp_path / f"b.{ext}").read_bytes()


# ----------------------------------------------------------------------------------------------------- inputs
CODECS = {
    "h264.mp4": X264,
    "h264_444.mkv": ("-c:v", "libx264", "-pix_fmt", "yuv444p"),
    "h264_full_709.mp4": (*X264, "-vf", "scale=out_color_matrix=bt709:out_range=full", "-colorspace", "bt709",
                          "-color_range", "pc"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-q:v", "3"),
    "mpeg2.ts": ("-c:v", "mpeg2video", "-q:v", "3"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "3"),
    "ffv1.mkv": FFV1,
    "ffv1_10bit.mkv": ("-c:v", "ffv1", "-pix_fmt", "yuv422p10"),
    "huffyuv.mov": ("-c:v", "png", "-pix_fmt", "rgb24"),
    "animated.gif": (),
}


def frames_through_overlay(folder, colours=PALETTE) -> np.ndarray:
    """The decoder's frames, got back from overlay PNGs and label PNGs of the same input: exact to one bit."""
    out = []
    for name in sorted(os.listdir(folder / "overlay")):
        blend = np.array(Image.open(folder / "overlay" / name)).astype(int)
        label = np.array(Image.open(folder / "labels" / name))
        out.append(2 * blend - np.array(colours)[label] - 0.5)
    return np.array(out)


@pytest.mark.parametrize("name", CODECS)
def test_codecs_decode_as_ffmpeg_does(tmp_path, tiny_model, rgb, name):
    source = masks.video(tmp_path / name, rgb[:5], *CODECS[name])
    for kind in ("overlay", "labels"):
        run(tiny_model, source, f"{tmp_path}/{kind}/", "--format", kind)
    got = frames_through_overlay(tmp_path)
    want = masks.decoded(source, "rgb24", (72, 98, 3))
    assert got.shape == want.shape
    assert np.abs(got - want).mean() < 1.0
    if name in ("ffv1.mkv", "huffyuv.mov"):
        assert np.abs(got - want).max() <= 0.5


@pytest.mark.parametrize("size", [(75, 97), (33, 64), (64, 35)])
def test_odd_sizes_are_kept(tmp_path, tiny_model, size):
    frames = cases.frames(size, 3, 5)
    h, w = size
    source = masks.video(tmp_path / "odd.webm", frames, "-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p")
    run(tiny_model, source, tmp_path / "o.zip")
    got = masks.zipped(tmp_path / "o.zip", PALETTE)
    assert [m.shape for m in got] == [size] * 3
    run(tiny_model, source, tmp_path / "o.mkv")
    assert same(masks.decoded(tmp_path / "o.mkv", "gray", size), got)
    run(tiny_model, source, tmp_path / "o.mp4")
    assert masks.size(tmp_path / "o.mp4") == (w + w % 2, h + h % 2)        # 4:2:0 has even sides only


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotated_video_is_upright(tmp_path, tiny_model, rgb, angle):
    masks.video(tmp_path / "plain.mp4", rgb[:3], *X264)
    masks.ffmpeg("-i", tmp_path / "plain.mp4", "-c", "copy", "-metadata:s:v", f"rotate={angle}",
                 tmp_path / "turned.mp4")
    for kind in ("overlay", "labels"):
        run(tiny_model, tmp_path / "turned.mp4", f"{tmp_path}/{kind}/", "--format", kind)
    got = frames_through_overlay(tmp_path)
    shape = (72, 98, 3) if angle == 180 else (98, 72, 3)
    upright = masks.decoded(tmp_path / "turned.mp4", "rgb24", shape)       # ffmpeg turns it too, before RGB
    plain = np.rot90(masks.decoded(tmp_path / "plain.mp4", "rgb24", (72, 98, 3)), angle // 90, (1, 2))
    assert got.shape == upright.shape == plain.shape
    assert np.abs(got - upright).mean() < 5 and np.abs(got - plain).mean() < 0.6


def test_variable_frame_rate_keeps_its_times(tmp_path, tiny_model, rgb):
    masks.video(tmp_path / "even.mkv", rgb, *FFV1)
    masks.ffmpeg("-i", tmp_path / "even.mkv", "-vf", "setpts='(N*N*0.013+N*0.04)/TB'", "-vsync", "vfr",
                 "-enc_time_base", "1/90000", "-video_track_timescale", "90000", *X264, "-bf", "2",
                 tmp_path / "vfr.mp4")
    times = masks.times(tmp_path / "vfr.mp4")
    assert len(times) == 12 and len({round(b - a, 3) for a, b in zip(times, times[1:])}) > 5
    for name, error in (("o.mp4", 2e-6), ("o.mkv", 0.00051)):
        run(tiny_model, tmp_path / "vfr.mp4", tmp_path / name)
        assert masks.times(tmp_path / name) == pytest.approx(times, abs=error)
    run(tiny_model, tmp_path / "vfr.mp4", tmp_path / "o.jsonl")
    assert [o["time"] for o in masks.lines(tmp_path / "o.jsonl")] == pytest.approx(times, abs=1e-6)


def test_one_frame_video(tmp_path, tiny_model, rgb):
    source = masks.video(tmp_path / "one.mp4", rgb[:1], *X264)
    for name in ("o.zip", "o.mp4", "o.mkv", "o.jsonl"):
        assert summary(tiny_model, source, tmp_path / name)["frames"] == 1
    assert len(masks.times(tmp_path / "o.mp4")) == 1


def test_folder_of_images_in_name_order_equals_logits(tmp_path, tiny_model, rgb):
    """Exact pixels, so the masks are those of `tv3s logits` on the same bytes; names are kept."""
    masks.images(tmp_path / "in", rgb)
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    (tmp_path / "in" / ".hidden.png").write_text("nor this")
    rgb.tofile(tmp_path / "in.rgb")
    run(tiny_model, tmp_path / "in", f"{tmp_path}/out/")
    subprocess.run([TV3S, "logits", tiny_model, "--rgb", tmp_path / "in.rgb", "--size", "98x72", "--logits",
                    tmp_path / "l.npy", "--masks", tmp_path / "m.npy"], check=True)
    assert sorted(os.listdir(tmp_path / "out")) == [f"{i:04d}.png" for i in range(12)]
    assert same(masks.folder(tmp_path / "out", PALETTE), np.load(tmp_path / "m.npy"))


@pytest.mark.parametrize("ext", ["png", "jpg", "bmp", "webp"])
def test_one_image(tmp_path, tiny_model, rgb, ext):
    source = tmp_path / f"100%d.{ext}"                                     # a '%' in a name is a '%'
    Image.fromarray(rgb[0]).save(source)
    for name in ("o.png", "o.json", "o.raw"):
        run(tiny_model, source, tmp_path / name)
    want = masks.raw(tmp_path / "o.raw", (98, 72))[0]
    assert np.array_equal(masks.png((tmp_path / "o.png").read_bytes(), PALETTE), want)
    lines = masks.lines(tmp_path / "o.json")
    assert len(lines) == 1 and set(lines[0]) == {"size", "runs"}
    assert np.array_equal(masks.rle(lines[0]), want)
    run(tiny_model, source, tmp_path / "blend.png", "--format", "overlay")
    blend = np.array(Image.open(tmp_path / "blend.png")).astype(int)
    expected = (np.array(Image.open(source).convert("RGB")) + np.array(PALETTE)[want] + 1) // 2
    assert np.abs(blend - expected).mean() < (4 if ext in ("jpg", "webp") else 0.01)


@pytest.mark.parametrize("ext", ["jpg", "webp", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_with_exif_orientation_is_upright(tmp_path, tiny_model, ext, orientation):
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:24, :36] = 255                                                  # one corner: no turn or mirror is another
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = tmp_path / f"turned.{ext}"
    Image.fromarray(frame).save(source, exif=exif, quality=95)
    for kind in ("overlay", "labels"):
        run(tiny_model, source, f"{tmp_path}/{kind}/", "--format", kind)
    got = frames_through_overlay(tmp_path)[0]
    upright = np.array(ImageOps.exif_transpose(Image.open(source)).convert("RGB"))
    assert got.shape == upright.shape and np.abs(got - upright).mean() < 4


def test_an_animated_webp_is_called_that(tmp_path, tiny_model, rgb):
    """FFmpeg has no decoder for it. In a folder the others go on."""
    pictures = [Image.fromarray(p) for p in rgb[:2]]
    (tmp_path / "in").mkdir()
    pictures[0].save(tmp_path / "in" / "a.webp", save_all=True, append_images=pictures[1:])
    pictures[0].save(tmp_path / "in" / "b.webp")
    done = run(tiny_model, tmp_path / "in" / "a.webp", tmp_path / "o.zip", check=False)
    assert done.returncode == 1 and "a.webp: an animated WebP" in done.stderr and not (tmp_path / "o.zip").exists()
    done = run(tiny_model, tmp_path / "in", f"{tmp_path}/out/")
    assert "a.webp: an animated WebP" in done.stderr and os.listdir(tmp_path / "out") == ["b.png"]


def test_standard_input(tmp_path, tiny_model, rgb, labels):
    source = masks.video(tmp_path / "in.mkv", rgb, *FFV1)
    with open(source, "rb") as f:
        run(tiny_model, "-", tmp_path / "a.raw", stdin=f)
    run(tiny_model, source, tmp_path / "b.raw")
    assert (tmp_path / "a.raw").read_bytes() == (tmp_path / "b.raw").read_bytes()


def test_modes_and_batches(tmp_path, tiny_model, clip, labels):
    run(tiny_model, clip, tmp_path / "b.raw", "--batch", 5)
    assert np.mean(np.array(masks.raw(tmp_path / "b.raw", (98, 72))) == np.array(labels)) > 0.9995
    for mode in ("clip", "frame"):
        run(tiny_model, clip, tmp_path / "m.raw", "--mode", mode)
        got = masks.raw(tmp_path / "m.raw", (98, 72))
        assert len(got) == 12 and not same(got, labels)
    assert np.array_equal(got[0], labels[0])                               # frame: the first is the same


# ----------------------------------------------------------------------------------------------------- damage
def test_damage_in_the_middle_is_counted_and_the_rest_goes_on(tmp_path, tiny_model):
    source = masks.video(tmp_path / "in.avi", cases.frames((72, 98), 30, 3), "-c:v", "mpeg4", "-q:v", "3", "-g",
                         "5")
    data = bytearray(open(source, "rb").read())
    for at in range(len(data) * 4 // 10, len(data) * 5 // 10):
        data[at] = (data[at] * 7 + 13) & 255
    (tmp_path / "bad.avi").write_bytes(data)
    done = run(tiny_model, tmp_path / "bad.avi", tmp_path / "o.zip", "--json")
    result = json.loads(done.stdout)
    assert result["corrupt"] > 0 and 20 <= result["frames"] <= 30
    warnings = [line for line in done.stderr.splitlines() if "warning" in line]
    assert warnings and all(line.startswith("tv3s segment: warning: ") for line in warnings)
    assert len(masks.zipped(tmp_path / "o.zip", PALETTE)) == result["frames"]


def test_a_broken_image_in_a_folder_is_named(tmp_path, tiny_model, rgb):
    masks.images(tmp_path / "in", rgb[:4])
    (tmp_path / "in" / "0002.png").write_bytes((tmp_path / "in" / "0002.png").read_bytes()[:60])
    done = run(tiny_model, tmp_path / "in", f"{tmp_path}/out/", "--json")
    assert json.loads(done.stdout)["corrupt"] == 1 and "0002.png" in done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["0000.png", "0001.png", "0003.png"]


def test_two_images_of_one_name_are_refused_at_the_start(tmp_path, tiny_model, rgb):
    """Their masks would be one file. Formats that number the frames take them."""
    masks.images(tmp_path / "in", rgb[:3])
    (tmp_path / "in" / "0001-2.png").write_bytes((tmp_path / "in" / "0002.png").read_bytes())
    (tmp_path / "in" / "0001.PNG").write_bytes((tmp_path / "in" / "0000.png").read_bytes())
    done = run(tiny_model, tmp_path / "in", f"{tmp_path}/out/", check=False)
    assert done.returncode != 0 and len(done.stderr.splitlines()) == 1 and "0001." in done.stderr
    assert not (tmp_path / "out").exists()
    assert json.loads(run(tiny_model, tmp_path / "in", tmp_path / "o.zip", "--json").stdout)["frames"] == 5


def test_a_cut_file_gives_what_it_has(tmp_path, tiny_model):
    masks.video(tmp_path / "in.mp4", cases.frames((72, 98), 30, 3), *X264, "-movflags", "faststart")
    data = (tmp_path / "in.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[:len(data) * 6 // 10])
    done = run(tiny_model, tmp_path / "cut.mp4", tmp_path / "o.zip", "--json")
    result = json.loads(done.stdout)
    assert 3 < result["frames"] < 30 and result["corrupt"] > 0 and "cut off" in done.stderr


def test_a_cut_matroska_or_avi_file_is_told_by_its_length(tmp_path, tiny_model):
    """Matroska does not count its frames in front, and AVI those too that it leaves out, as here every second one. A file
    that was written to a pipe does not say how long it is."""
    slow = ("-vf", "setpts=2*PTS", "-r", "50", "-vsync", "vfr")
    for name, more, cut in (("a.mkv", (), True), ("b.webm", ("-f", "matroska", "-live", "1"), False),
                            ("c.avi", slow, True)):
        masks.video(tmp_path / name, cases.frames((72, 98), 30, 3), *X264, *more)
        data = (tmp_path / name).read_bytes()
        whole = run(tiny_model, tmp_path / name, tmp_path / "o.zip", "--json")
        assert json.loads(whole.stdout)["corrupt"] == 0 and "cut off" not in whole.stderr
        (tmp_path / f"cut-{name}").write_bytes(data[:len(data) * 6 // 10])
        done = run(tiny_model, tmp_path / f"cut-{name}", tmp_path / "o.zip", "--json")
        assert (f"cut off: {len(data) * 6 // 10} of {len(data)} bytes" in done.stderr) == cut, done.stderr
        assert (json.loads(done.stdout)["corrupt"] > 0) >= cut and 3 < json.loads(done.stdout)["frames"] < 30


@pytest.fixture
def two_sizes(tmp_path) -> str:
    for i, size in enumerate(((64, 96), (96, 64))):
        masks.video(tmp_path / f"{i}.ts", cases.frames(size, 4, i), *X264)
    data = b"".join((tmp_path / f"{i}.ts").read_bytes() for i in range(2))
    (tmp_path / "both.ts").write_bytes(data)
    return str(tmp_path / "both.ts")


def test_a_change_of_size_is_reported_and_followed(tmp_path, tiny_model, two_sizes):
    done = run(tiny_model, two_sizes, tmp_path / "o.zip")
    assert "the size changes from 96x64 to 64x96" in done.stderr
    shapes = [m.shape for m in masks.zipped(tmp_path / "o.zip", PALETTE)]
    assert set(shapes) == {(64, 96), (96, 64)} and len(shapes) == 8
    done = run(tiny_model, two_sizes, tmp_path / "o.mp4", check=False)
    assert done.returncode == 1 and "keeps one size" in done.stderr
    assert not (tmp_path / "o.mp4").exists()


# ----------------------------------------------------------------------------------------------------- errors
def broken_inputs(folder, rgb) -> dict:
    """{name: what the message says}"""
    masks.video(folder / "whole.mp4", rgb, *X264)
    (folder / "cut.mp4").write_bytes((folder / "whole.mp4").read_bytes()[:-3000])  # its index is at the end
    masks.ffmpeg("-f", "lavfi", "-i", "sine=d=1", folder / "audio.wav")
    masks.ffmpeg("-f", "lavfi", "-i", "sine=d=1", "-i", folder / "whole.mp4", "-map", "0", "-map", "1:v",
                 "-frames:v", "1", "-c:v", "mjpeg", "-disposition:v", "attached_pic", folder / "cover.m4a")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is not a video\n" * 100)
    (folder / "noise.mkv").write_bytes(np.random.default_rng(1).bytes(50000))
    (folder / "nothing").mkdir()
    return {"cut.mp4": "neither", "audio.wav": "no video stream", "cover.m4a": "no video stream",
            "empty.mp4": "empty", "text.mp4": "neither", "noise.mkv": "neither", "nothing": "no images",
            "missing.mp4": "No such file"}


def test_what_is_no_video_is_a_plain_error(tmp_path, tiny_model, rgb):
    (tmp_path / "out").mkdir()
    for name, text in broken_inputs(tmp_path, rgb).items():
        done = run(tiny_model, tmp_path / name, tmp_path / "out" / "o.zip", check=False)
        assert done.returncode == 1, name
        assert done.stderr.startswith("tv3s segment: ") and done.stderr.count("\n") == 1, done.stderr
        assert text in done.stderr and name in done.stderr, done.stderr
        assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("out, text", [("missing/o.zip", "No such file or directory"), ("o.avi", ": .zip, .png, .raw, .json, .jsonl, .mp4 and .mkv do"),
                                       ("o.png", "holds one image"), ("", "no name")])
def test_where_it_cannot_write_is_a_plain_error(tmp_path, tiny_model, clip, out, text):
    done = run(tiny_model, clip, f"{tmp_path}/{out}" if out else "", check=False)
    assert done.returncode == 1 and text in done.stderr and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words, meant", [
    (["segmnt"], "'segment'"), (["sgement", "--help"], "'segment'"), (["segment", "--formt", "rle"], "--format"),
    (["info", "--sise=1x1"], "--size"), (["key", "me", "--frames_per_second", "3"], "--frames-per-second"),
    (["convert", "--shfit", "3"], "--shift"), (["eval", "--class", "3", "--ignoer", "3"], "--ignore"),
    (["bench", "--steams", "3"], "--streams"), (["logits", "--mask", "x", "--logit", "x", "--rbg", "x"], "--rgb"),
    (["segment", "--colour"], None), (["paint"], None)])
def test_what_was_meant_by_a_misspelt_word_is_guessed(words, meant):
    done = subprocess.run([TV3S, *words], capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert f"did you mean {meant}?" in done.stderr if meant else "did you mean" not in done.stderr, done.stderr


def test_wrong_arguments_are_usage_errors(tmp_path, tiny_model, clip):
    for args in ([], [tiny_model], [tiny_model, clip], [tiny_model, clip, "-o", "x.zip", "--batch", "0"],
                 [tiny_model, clip, "-o", "x.zip", "--format", "gif"], [tiny_model, clip, "-o", "x.zip", "--nope"]):
        done = subprocess.run([TV3S, "segment", *args], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith("tv3s segment: ")
        assert "gif" not in args or "png, raw, rle, coco_rle, overlay or labels" in done.stderr
    assert subprocess.run([TV3S, "help", "segment"], capture_output=True).stdout.startswith(b"usage: tv3s segment")
    done = run(clip, clip, tmp_path / "o.zip", check=False)                # a video is no model
    assert done.returncode == 1 and os.listdir(tmp_path) == []


def test_the_same_video_gives_the_same_bytes_whatever_memory_held(tmp_path, tiny_model):
    source = masks.video(tmp_path / "a.mkv", cases.frames((160, 224), 40, 5), "-c:v", "libx264", "-pix_fmt", "yuv420p")
    for ending in ("mp4", "mkv", "zip"):
        results = set()
        for byte in (0, 7, 90, 255):
            subprocess.run([TV3S, "segment", tiny_model, source, "-o", tmp_path / f"o.{ending}"], check=True,
                           capture_output=True, env={**os.environ, "MALLOC_PERTURB_": str(byte)})
            results.add((tmp_path / f"o.{ending}").read_bytes())
        assert len(results) == 1


# ------------------------------------------------------------------------------------------- whole or absent
def test_a_full_device_is_an_error(tiny_model, clip):
    for kind in ("raw", "png", "labels", "overlay", "rle"):
        done = run(tiny_model, clip, "/dev/full", "--format", kind, check=False)
        assert done.returncode == 1 and "No space left" in done.stderr, (kind, done.stderr)


@pytest.mark.parametrize("name", ["o.zip", "o.mp4", "o.mkv", "o.jsonl", "o.raw", "o/"])
def test_a_disk_that_fills_up_leaves_nothing_new(tmp_path, tiny_model, clip, name):
    path = tmp_path / "out" / name
    (tmp_path / "out").mkdir()
    if not name.endswith("/"):
        path.write_text("the old file")
    before = sorted(os.listdir(tmp_path / "out"))
    limit = 50 if name.endswith("/") else 1500
    done = subprocess.run(["prlimit", f"--fsize={limit}", TV3S, "segment", tiny_model, clip, "-o",
                           f"{tmp_path}/out/{name}"], capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr, done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == before
    assert not before or path.read_text() == "the old file"


@pytest.mark.parametrize("name", ["o.zip", "o.mp4", "o/"])
def test_an_interrupt_leaves_nothing(tmp_path, tiny_model, rgb, name):
    import signal
    import time
    source = masks.video(tmp_path / "long.mkv", np.tile(rgb, (40, 1, 1, 1)), *FFV1)
    (tmp_path / "out").mkdir()
    p = subprocess.Popen([TV3S, "segment", tiny_model, source, "-o", f"{tmp_path}/out/{name}"],
                         stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not os.listdir(tmp_path / "out") and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    p.send_signal(signal.SIGINT)
    stderr = p.communicate(timeout=60)[1]
    assert p.returncode == -signal.SIGINT and "interrupted" in stderr
    assert os.listdir(tmp_path / "out") == []


# ---------------------------------------------------------------------------------------------------- manners
def test_a_terminal_gets_a_bar_and_a_pipe_one_line(tmp_path, tiny_model, clip):
    ours, theirs = pty.openpty()
    p = subprocess.Popen([TV3S, "segment", tiny_model, clip, "-o", tmp_path / "o.zip"], stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:                                                        # the other side has closed
        pass
    assert p.wait() == 0 and b"/12 " in seen and b"frames/s" in seen and b"left" in seen
    done = run(tiny_model, clip, tmp_path / "o.zip")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("12 frames in ") and done.stdout == ""
    done = run(tiny_model, clip, tmp_path / "o.zip", "--quiet")
    assert done.stderr == ""


@pytest.mark.skipif(SANITIZED, reason="sanitizers keep freed memory")
def test_memory_is_flat_over_the_frames(tmp_path, tiny_model, rgb):
    peak = {}
    for n in (5, 60):
        source = masks.video(tmp_path / "in.mkv", np.tile(rgb, (n, 1, 1, 1)), *FFV1)
        for name in ("o.zip", "o.mp4"):
            done = subprocess.run(["/usr/bin/python3", "-c", "import resource, subprocess, sys; "
                                   "subprocess.run(sys.argv[1:], check=True); "
                                   "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)",
                                   TV3S, "segment", tiny_model, source, "-o", tmp_path / name, "--quiet"],
                                  check=True, capture_output=True, text=True)
            peak[n, name] = int(done.stdout)                               # KiB
    print(peak)
    for name in ("o.zip", "o.mp4"):
        assert peak[60, name] - peak[5, name] < 8 * 1024
