"""Video decoded by FFmpeg's NVDEC, on the stand-in for NVIDIA's driver (tests/cuda_host/driver): the frames are those of
FFmpeg's decoders on the host bit by bit, and where the device does not decode them or fails, the reason is told."""
from __future__ import annotations

import random
import subprocess

import pytest
from PIL import Image

import cases
import masks
from nvdec import CODECS, FRAMES, program_with_driver

COUNT = 24
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "10", "-bf", "3")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p")
MJPEG = ("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p")


class Frames:
    """What tests/cuda_host/driver/frames.c printed."""

    def __init__(self, program, file, *options):
        done = subprocess.run([program, file, *options], capture_output=True, text=True, env={})
        assert done.returncode in (0, 1) and done.stderr == "", done
        lines = done.stdout.splitlines()
        frames = [line.split(maxsplit=3) for line in lines if line.startswith("frame ")]
        self.decoders = {f[1] for f in frames}
        self.places = {f[2] for f in frames}
        self.frames = [f[3] for f in frames]
        self.error = "".join(line[len("error: "):] for line in lines if line.startswith("error: "))
        corrupt, self.why = lines[-1].split(" corrupt, ", 1)
        self.corrupt = int(corrupt)
        assert bool(self.error) == bool(done.returncode)


def video(path, size=(90, 160), codec=X264, count=COUNT, seed=1) -> str:
    return masks.video(path, cases.frames(size, count, seed), *codec)


def same(program, file, *options) -> Frames:
    """Decoded with the device, when it gives what is given without."""
    host, device = Frames(FRAMES, file, *options), Frames(program, file, "device", *options)
    assert host.error == device.error == "" and host.decoders == {"cpu"}
    assert len(host.frames) >= 1 and len(set(host.frames)) == len(host.frames)
    assert device.frames == host.frames and device.corrupt == host.corrupt
    return device


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return video(tmp_path_factory.mktemp("clip") / "clip.mp4")


# ------------------------------------------------------------------------------------------------- on the device
@pytest.mark.parametrize("name, size, codec", [
    ("b-frames.mp4", (96, 160), X264),
    ("cropped.mp4", (90, 162), X264),
    ("moved.mp4", (96, 160), (*X264, "-bsf:v", "h264_metadata=crop_left=4:crop_top=2:crop_right=2:crop_bottom=8")),
    ("baseline.ts", (90, 160), (*X264[:4], "-profile:v", "baseline")),
    ("interlaced.mkv", (96, 160), (*X264, "-x264opts", "interlaced=1:cqm=jvt:weightp=2:ref=5")),
    ("full.mp4", (96, 160), (*X264, "-vf", "scale=out_range=full:out_color_matrix=bt709", "-color_range", "pc",
                             "-colorspace", "bt709")),
    ("hidden.webm", (144, 192), (*VP9[:2], *VP9[6:], "-auto-alt-ref", "1", "-lag-in-frames", "8")),
    ("vp9.webm", (130, 160), VP9),
    ("vp8.webm", (90, 160), ("-c:v", "libvpx", "-deadline", "realtime", "-pix_fmt", "yuv420p")),
    ("mjpeg.avi", (90, 160), MJPEG),
])
def test_frames_stay_on_the_device(tmp_path, name, size, codec):
    device = same(FRAMES, video(tmp_path / name, size, codec))
    assert device.decoders == {"nvdec"} and device.places == {"there"} and device.why == ""
    assert len(device.frames) == COUNT


@pytest.mark.parametrize("name, size, codec", [
    ("large.mp4", (1024, 1024), (*X264, "-preset", "ultrafast")),          # 1.5 MiB, no room for it there
    ("no-name.mp4", (96, 160), (*X264, "-colorspace", "smpte240m")),
])
def test_frames_that_the_device_cannot_keep_come_from_it(tmp_path, name, size, codec):
    device = same(FRAMES, video(tmp_path / name, size, codec, count=3))
    assert device.decoders == {"nvdec"} and device.places == {"here"}


@pytest.mark.parametrize("options", [(), ("rgb",)])
def test_turned_and_rgb_frames_come_from_the_device(tmp_path, clip, options):
    masks.ffmpeg("-i", clip, "-c", "copy", "-metadata:s:v", "rotate=90", tmp_path / "turned.mp4")
    for file in (tmp_path / "turned.mp4", *([clip] if options else [])):
        device = same(FRAMES, file, *options)
        assert device.decoders == {"nvdec"} and device.places == {"here"}


@pytest.mark.parametrize("ext, codec, header", [("ts", X264, 0), ("ivf", VP9, 32)])
def test_sizes_that_change_at_key_frames_stay_on_the_device(tmp_path, ext, codec, header):
    parts = [open(video(tmp_path / f"{i}.{ext}", size, codec, 8, i), "rb").read()
             for i, size in enumerate([(136, 160), (128, 132), (176, 200)])]
    (tmp_path / f"all.{ext}").write_bytes(parts[0] + b"".join(part[header:] for part in parts[1:]))
    device = same(FRAMES, tmp_path / f"all.{ext}")
    assert device.decoders == {"nvdec"} and len(device.frames) == COUNT


# ---------------------------------------------------------------------------------------------------- on the host
@pytest.mark.parametrize("name, size, codec, why", [
    ("10bit.mp4", (96, 160), (*X264[:2], "-pix_fmt", "yuv420p10"), "pictures are yuv420p10le, not 4:2:0 of 8 bits"),
    ("444.mp4", (96, 160), (*X264[:2], "-pix_fmt", "yuv444p"), "pictures are yuv444p, not 4:2:0 of 8 bits"),
    ("odd.webm", (131, 161), VP9, "pictures have odd sides"),
    ("small.webm", (90, 160), VP9, "Video height 90 not within range from 128 to 4096"),
    ("old.avi", (96, 160), ("-c:v", "mpeg4"), "Hardware is lacking required capabilities"),
    ("av1.mkv", (96, 160), ("-c:v", "libsvtav1", "-preset", "12", "-pix_fmt", "yuv420p"),
     "Hardware is lacking required capabilities"),
    ("theirs.mkv", (96, 160), ("-c:v", "ffv1", "-pix_fmt", "yuv420p"), "FFmpeg has this codec for no CUDA device"),
])
def test_what_the_device_does_not_have_is_decoded_on_the_host(tmp_path, name, size, codec, why):
    device = same(FRAMES, video(tmp_path / name, size, codec, 8))
    assert device.decoders == {"cpu"} and device.why == f"cuda:0: {why}"


def test_images_are_decoded_on_the_host(tmp_path):
    Image.fromarray(cases.frames((96, 160), 1, 1)[0]).save(tmp_path / "one.jpg")
    assert same(FRAMES, tmp_path / "one.jpg", "any").why == "it is one image"
    assert same(FRAMES, tmp_path, "any").why == "it is a folder of images"


@pytest.mark.parametrize("faults, why", [
    ({"without": ["libcuda.so.1"]}, "Cannot load libcuda.so.1"),
    ({"without": ["libnvcuvid.so.1"]}, "Cannot load libnvcuvid.so.1"),
    ({"codecs": 1 << CODECS["vp9"]}, "Hardware is lacking required capabilities"),
    ({"width": 159}, "Video width 160 not within range from 48 to 159"),
    ({"memory": 100000}, "cuvidCreateDecoder failed -> CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    ({"decode": 0}, "cuvidDecodePicture failed -> CUDA_ERROR_UNKNOWN: unknown error"),
    ({"decode": 2}, "cuvidDecodePicture failed -> CUDA_ERROR_UNKNOWN: unknown error"),       # B-frames: before the first is shown
    ({"map": 0}, "cuvidMapVideoFrame failed -> CUDA_ERROR_UNKNOWN: unknown error"),
])
def test_a_device_that_fails_before_its_first_frame_is_left(tmp_path, clip, faults, why):
    device = same(program_with_driver(FRAMES, tmp_path, **faults), clip)
    assert device.decoders == {"cpu"} and device.why == f"cuda:0: {why}" and len(device.frames) == COUNT


# ---------------------------------------------------------------------------------------------------- in the middle
@pytest.mark.parametrize("faults, options", [({"decode": 9}, ()), ({"map": 6}, ()), ({"copy": 12}, ("rgb",))])
def test_a_device_that_fails_later_ends_with_its_error(tmp_path, clip, faults, options):
    host = Frames(FRAMES, clip, *options)
    device = Frames(program_with_driver(FRAMES, tmp_path, **faults), clip, "device", *options)
    assert device.error.startswith("device: ") and "CUDA_ERROR_UNKNOWN: unknown error" in device.error
    assert device.corrupt == 0 and 0 < len(device.frames) < COUNT
    assert device.frames == host.frames[:len(device.frames)]


def test_a_size_that_is_too_large_later_ends_with_the_devices_error(tmp_path):
    parts = [video(tmp_path / f"{i}.ts", size, X264, 8, i) for i, size in enumerate([(96, 160), (126, 200)])]
    (tmp_path / "all.ts").write_bytes(b"".join(open(p, "rb").read() for p in parts))
    device = Frames(program_with_driver(FRAMES, tmp_path / "rig", width=170), tmp_path / "all.ts", "device")
    assert device.error == "device: cuda:0: Video width 208 not within range from 48 to 170" and len(device.frames) > 0
    assert device.frames == Frames(FRAMES, tmp_path / "all.ts").frames[:len(device.frames)]


def test_a_size_of_vp9_that_changes_at_no_key_frame_ends_with_the_devices_error(tmp_path):
    """Its picture is made of those of the old size, which the new decoder on the device would not have."""
    masks.ffmpeg("-f", "lavfi", "-i", "testsrc2=s=640x480:r=30", "-vf", "noise=alls=80:allf=t:all_seed=1", "-frames:v", "75",
                 "-pix_fmt", "yuv420p", tmp_path / "noise.y4m")
    subprocess.run(["vpxenc", "--codec=vp9", "--ivf", "-o", tmp_path / "resized.ivf", "--rt", "--cpu-used=8", "--threads=1",
                    "--lag-in-frames=0", "--kf-max-dist=9999", "--end-usage=cbr", "--target-bitrate=40", "--buf-sz=1000",
                    "--buf-initial-sz=500", "--buf-optimal-sz=600", "--resize-allowed=1", "--resize-up=60", "--resize-down=30",
                    tmp_path / "noise.y4m"], check=True, capture_output=True)
    host, device = Frames(FRAMES, tmp_path / "resized.ivf"), Frames(FRAMES, tmp_path / "resized.ivf", "device")
    sizes = [frame.split()[1] for frame in host.frames]
    assert set(sizes) == {"640x480", "480x360"} and device.decoders == {"nvdec"}
    assert device.error == "device: cuda:0: the size changes at a picture that is no key frame"
    assert device.frames == host.frames[:sizes.index("480x360")]


# ---------------------------------------------------------------------------------------------------- damage
@pytest.mark.parametrize("name, codec", [("clip.ts", X264), ("clip.mp4", X264), ("clip.ivf", VP9), ("clip.avi", MJPEG)])
def test_damage_is_not_the_devices_error(tmp_path, name, codec):
    whole = open(video(tmp_path / name, (144, 192), codec), "rb").read()
    decoded = 0
    for seed in range(12):
        draw, data = random.Random(seed), bytearray(whole)
        for _ in range(1 + seed):
            data[draw.randrange(1000, len(data))] ^= 1 << draw.randrange(8)
        if seed % 3 == 2:
            del data[draw.randrange(len(data) // 2, len(data)):]
        (tmp_path / f"{seed}-{name}").write_bytes(data)
        device = Frames(FRAMES, tmp_path / f"{seed}-{name}", "device")
        assert not device.error.startswith("device"), (seed, device.error)
        decoded += len(device.frames)
    assert decoded > 12 * COUNT / 2


def test_damage_before_the_first_frame_counts_once(tmp_path):
    """Also where the device's decoder was sent it in vain."""
    data = bytearray(open(video(tmp_path / "clip.ivf", (144, 192), (*VP9, "-g", "6")), "rb").read())
    data[32 + 12] ^= 0xc0                                               # the marker of the first key frame
    (tmp_path / "late.ivf").write_bytes(data)
    host = Frames(FRAMES, tmp_path / "late.ivf")
    assert host.corrupt == 6 and len(host.frames) == COUNT - 6
    assert same(FRAMES, tmp_path / "late.ivf").decoders == {"nvdec"}
    assert same(program_with_driver(FRAMES, tmp_path / "rig", codecs=0), tmp_path / "late.ivf").decoders == {"cpu"}


def jpegs(path) -> list[bytearray]:
    """Of a file with nothing but JPEGs."""
    data = open(path, "rb").read()
    return [bytearray(b"\xff\xd8" + part) for part in data.split(b"\xff\xd8")[1:]]


def segments(jpeg: bytes):
    """Where each segment begins and ends, up to the scan, with its kind."""
    at = 2
    while jpeg[at + 1] != 0xda:
        end = at + 2 + int.from_bytes(jpeg[at + 2:at + 4], "big")
        yield jpeg[at + 1], at, end
        at = end


def test_jpegs_that_nvdec_may_not_have_are_decoded_on_the_host(tmp_path):
    """Without tables, as cameras' AVIs have them, for which FFmpeg has the usual ones; progressive; a file of two."""
    plain = jpegs(video(tmp_path / "plain.mjpeg", codec=(*MJPEG, "-huffman", "default"), count=5))
    assert len(plain) == 5 and same(FRAMES, tmp_path / "plain.mjpeg").decoders == {"nvdec"}
    bare = []
    for jpeg in plain:
        (at, end), = [(at, end) for kind, at, end in segments(jpeg) if kind == 0xc4]
        bare.append(jpeg[:at] + jpeg[end:])
    for name, frames in (("bare", bare), ("mixed", plain[:3] + bare[3:])):
        (tmp_path / f"{name}.mjpeg").write_bytes(b"".join(frames))
    device = same(FRAMES, tmp_path / "bare.mjpeg")
    assert device.decoders == {"cpu"} and device.why == "cuda:0: the JPEGs are not baseline, or without tables"
    mixed = Frames(FRAMES, tmp_path / "mixed.mjpeg", "device")
    assert mixed.error == "device: " + device.why and len(mixed.frames) == 3
    for i, frame in enumerate(cases.frames((96, 160), 3, 1)):
        Image.fromarray(frame).save(tmp_path / f"{i}.jpg", progressive=True)
    (tmp_path / "progressive.mjpeg").write_bytes(b"".join((tmp_path / f"{i}.jpg").read_bytes() for i in range(3)))
    assert same(FRAMES, tmp_path / "progressive.mjpeg").decoders == {"cpu"}
