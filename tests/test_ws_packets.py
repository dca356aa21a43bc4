"""Packets of real encoders over WebSocket: the same masks as images of the same decoded frames."""
from __future__ import annotations

import asyncio
import itertools
import json
import struct
import subprocess

import numpy as np
import pytest

import cases
import masks
from daemon import Daemon
from live import Frame, Raw, client, header, labels, rgb, tool_masks
from tv3s_client import Answer, Dropped, Failed, ProtocolError
from tv3s_client import packets as read_packets

SIZE = (64, 96)
COUNT = 14
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "7", "-threads", "1", "-x264-params", "aud=1:log-level=none")
X265 = ("-c:v", "libx265", "-pix_fmt", "yuv420p", "-x265-params", "aud=1:log-level=none:keyint=7:pools=1")
CODECS = {  # encoder's arguments, ending, codec
    "h264": ((*X264, "-bf", "0"), "h264", "h264"),
    "h264-reordered": ((*X264, "-bf", "3"), "h264", "h264"),
    "hevc": ((*X265, "-bf", "2"), "hevc", "hevc"),
    "vp8": (("-c:v", "libvpx", "-b:v", "400k", "-deadline", "realtime"), "ivf", "vp8"),
    "vp9": (("-c:v", "libvpx-vp9", "-b:v", "400k", "-deadline", "realtime", "-cpu-used", "8"), "ivf", "vp9"),
    "av1": (("-c:v", "libaom-av1", "-cpu-used", "8", "-b:v", "400k", "-usage", "realtime"), "ivf", "av1"),
}


def packets_of(path) -> list[bytes]:
    data = open(path, "rb").read()
    if path.endswith(".ivf"):
        out, at = [], 32
        while at < len(data):
            size, = struct.unpack_from("<I", data, at)
            out.append(data[at + 12:at + 12 + size])
            at += 12 + size
        return out
    mark = b"\0\0\0\1\x09" if path.endswith("h264") else b"\0\0\0\1\x46"  # access unit delimiters
    return [mark + unit for unit in data.split(mark)[1:]]


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory):
    with Daemon(tiny_model, tmp_path_factory.mktemp("spool") / "s") as d:
        yield d


@pytest.fixture(scope="module")
def clips(tiny_model, tmp_path_factory):
    """codec -> (packets, what is to come of them); `decoded`: their pictures, `path`: their files"""
    made = {}

    def make(name):
        if name not in made:
            options, ending, _ = CODECS[name]
            folder = tmp_path_factory.mktemp(name)
            path = masks.video(folder / f"clip.{ending}", cases.frames(SIZE, COUNT, 9), *options)
            decoded = masks.decoded(path, "rgb24", (*SIZE, 3))
            assert len(decoded) == COUNT
            made[name] = packets_of(path), tool_masks(tiny_model, decoded, folder)
            make.decoded[name], make.path[name] = decoded, path
            assert len(made[name][0]) == COUNT
        return made[name]
    make.decoded, make.path = {}, {}
    return make


def packet(data, codec, i=None) -> Frame:
    return Frame.packet(data, codec, pts=None if i is None else i * 40000)


@pytest.mark.parametrize("name", CODECS)
def test_packets_give_the_masks_of_their_pictures(daemon, clips, name):
    packets, expected = clips(name)
    codec = CODECS[name][2]
    with client(daemon).stream(f"packets-{name}", format="raw") as s:
        answers = list(s.masks(packet(p, codec, i) for i, p in enumerate(packets)))
    assert len(answers) == COUNT
    assert all((labels(a) == e).all() for a, e in zip(answers, expected))
    assert sorted(a.seq for a in answers) == list(range(COUNT)) and all(a.pts == a.seq * 40000 for a in answers)
    if "reordered" in name:
        assert [a.seq for a in answers] != list(range(COUNT))


def flags_of(path: str) -> list[bool]:
    """Whether each packet is a key frame, as ffprobe says."""
    return ["K" in line for line in masks.probe(path, "-show_entries", "packet=flags").split()]


@pytest.mark.parametrize("name", CODECS)
def test_the_client_takes_packets_out_of_a_file(clips, name):
    """The same units, key frames and times as other readers see."""
    made, _ = clips(name)
    path, codec = clips.path[name], CODECS[name][2]
    frames = list(read_packets(path, codec))
    assert [bytes(f.data) for f in frames] == made and {f.codec for f in frames} == {codec}
    assert [f.key_frame for f in frames] == flags_of(path) and sum(f.key_frame for f in frames) < COUNT
    if path.endswith("ivf"):
        assert [f.pts for f in frames] == [40000 * i for i in range(COUNT)]


@pytest.mark.parametrize("codec, encoder", [("h264", "libx264"), ("hevc", "libx265")])
def test_the_client_takes_packets_out_of_a_pipe(daemon, tiny_model, tmp_path, codec, encoder):
    """Without delimiters, in slices, with reordering."""
    options = ("-x264-params", "slices=3:log-level=none") if codec == "h264" else ("-x265-params", "slices=3:log-level=none")
    path = masks.video(tmp_path / "clip.mp4", cases.frames((128, 96), COUNT, 4), "-c:v", encoder, "-pix_fmt", "yuv420p",
                       "-bf", "2", *options)
    expected = tool_masks(tiny_model, masks.decoded(path, "rgb24", (128, 96, 3)), tmp_path)
    ffmpeg = subprocess.Popen(["ffmpeg", "-v", "error", "-i", path, "-c", "copy", "-bsf:v", f"{codec}_mp4toannexb", "-f", codec,
                               "-"], stdout=subprocess.PIPE)
    with client(daemon).stream(f"pipe-{codec}", format="raw") as s:
        answers = list(s.masks(read_packets(ffmpeg.stdout, codec)))
    assert ffmpeg.wait() == 0 and len(answers) == COUNT
    assert all((labels(a) == e).all() for a, e in zip(answers, expected))


def test_packets_go_on_at_a_key_frame(daemon, tiny_model, clips, tmp_path):
    """Without a decoder of one's own: the frames up to it are not seen."""
    clips("h264")
    path, pictures = clips.path["h264"], clips.decoded["h264"]
    with client(daemon).stream("key", format="raw") as s:
        assert len(list(s.masks(itertools.islice(read_packets(path, "h264"), 3)))) == 3
    with client(daemon).stream("key", format="raw") as s:
        answers = list(s.masks(read_packets(path, "h264", first=s.last_seq + 1)))
    key = flags_of(path).index(True, 3)
    assert key > 3 and [a.seq for a in answers] == list(range(key, COUNT))
    expected = tool_masks(tiny_model, np.concatenate([pictures[:3], pictures[key:]]), tmp_path)
    assert all((labels(a) == e).all() for a, e in zip(answers, expected[3:]))


def test_what_is_no_packet_is_said_in_words(tmp_path):
    (tmp_path / "x").write_bytes(b"RIFF" + bytes(60))
    with pytest.raises(ProtocolError, match="IVF"):
        list(read_packets(tmp_path / "x"))
    damaged = b"\x12\x80"  # a unit whose length has no end
    (tmp_path / "x").write_bytes(b"DKIF\0\0\x20\0AV01" + bytes(20) + struct.pack("<IQ", len(damaged), 0) + damaged)
    with pytest.raises(ProtocolError, match="AV1 is damaged"):
        list(read_packets(tmp_path / "x"))


def test_reordering_that_uses_up_the_credit_raises_it(daemon, clips):
    packets, expected = clips("h264-reordered")
    with client(daemon).stream("raised", format="raw", credit=1) as s:
        answers = list(s.masks(packet(p, "h264") for p in packets))
        assert 1 < s.credit <= 6
    assert all((labels(a) == e).all() for a, e in zip(answers, expected)) and len(answers) == COUNT


def test_dropped_packets_are_decoded_for_those_after_them(daemon, clips):
    """Frames go by, the picture does not break: what is answered is what the tool says of those frames alone."""
    packets, _ = clips("h264")

    async def run():
        async with Raw(daemon, "decoded?drop=newest&credit=1&format=raw&mode=frame") as c:
            for i, p in enumerate(packets):
                await c.send(header(i, 4, 1) + p)
            await c.send('{"type":"end"}')
            answered, dropped = {}, []
            while True:
                message = await c.recv()
                if isinstance(message, bytes):
                    answered[int.from_bytes(message[8:16], "little")] = message[48:]
                elif json.loads(message)["type"] == "dropped":
                    dropped += json.loads(message)["seq"]
                elif json.loads(message)["type"] == "bye":
                    return answered, dropped
    answered, dropped = asyncio.run(run())
    assert sorted([*answered, *dropped]) == list(range(COUNT)) and dropped
    with client(daemon).stream("alone", format="raw", mode="frame") as s:
        alone = list(s.masks(packet(p, "h264") for p in packets))
    for seq, mask in answered.items():
        assert mask == alone[seq].data, seq


def test_parameter_sets_and_damage_are_reported_and_survived(daemon, clips):
    packets, expected = clips("h264")
    junk = b"\0\0\0\1\x65" + bytes(range(1, 60))
    sent = [b"\0\0\0\1\x09\xf0", *packets[:3], junk, *packets[7:9]]
    with client(daemon).stream("damage", format="raw") as s:
        events = list(s.results(packet(p, "h264") for p in sent))
    assert [(e.seq, e.reason) for e in events if isinstance(e, Dropped)] == [(0, "empty")]
    assert [e.seq for e in events if isinstance(e, Failed)] in ([4], [])
    answers = [e for e in events if isinstance(e, Answer)]
    assert [a.seq for a in answers if a.seq != 4] == [1, 2, 3, 5, 6]
    assert all((labels(a) == e).all() for a, e in zip(answers[:3], expected[:3]))


def test_a_stream_may_change_codec_and_go_back_to_images(daemon, clips):
    h264, expected = clips("h264")
    vp9, _ = clips("vp9")
    picture = cases.frames(SIZE, 1, 2)[0]
    sent = [*(packet(p, "h264") for p in h264[:4]), *(packet(p, "vp9") for p in vp9[:3]), rgb(picture)]
    with client(daemon).stream("change", format="raw") as s:
        answers = list(s.masks(sent))
    assert [a.seq for a in answers] == list(range(8))
    assert all((labels(a) == e).all() for a, e in zip(answers[:4], expected[:4]))


def test_a_new_connection_begins_with_a_new_decoder(daemon, clips):
    packets, expected = clips("h264-reordered")
    for round_ in range(2):  # the first leaves packets in the decoder
        async def leave():
            async with Raw(daemon, "again?credit=16") as c:
                for i, p in enumerate(packets[:5]):
                    await c.send(header(c.hello["last_seq"] + 1 + i, 4, 1) + p)
                c.socket.transport.abort()
        asyncio.run(leave())
        with client(daemon).stream("again", format="raw", takeover=True) as s:
            s.reset()
            answers = list(s.masks(packet(p, "h264") for p in packets))
        assert len(answers) == COUNT
        assert all((labels(a) == e).all() for a, e in zip(answers, expected)), round_
    assert np.array_equal(labels(answers[-1]), expected[-1])


def test_a_broken_connection_leaves_the_state_of_what_was_shown(daemon, clips):
    """Pictures that the decoder still held are not applied, so `last_seq` says where to go on."""
    packets, expected = clips("h264-reordered")
    with client(daemon).stream("order", format="raw") as s:
        order = [a.seq for a in s.masks(packet(p, "h264") for p in packets)]
    assert order != sorted(order)
    shown = {number: place for place, number in enumerate(order)}
    pictures = clips.decoded["h264-reordered"]

    async def leave(sent: int) -> None:
        async with Raw(daemon, f"shown-{sent}?credit=16&format=raw") as c:
            for i, p in enumerate(packets[:sent]):
                await c.send(header(shown[i], 4, 1) + p)
            c.socket.transport.abort()
    for sent in range(1, COUNT):
        asyncio.run(leave(sent))
        with client(daemon).stream(f"shown-{sent}", format="raw", takeover=True) as s:
            last = s.last_seq
            assert set(range(last + 1)) <= {shown[i] for i in range(sent)}
            answers = list(s.masks(rgb(p) for p in pictures[last + 1:]))
        assert [a.seq for a in answers] == list(range(last + 1, COUNT))
        assert all((labels(a) == e).all() for a, e in zip(answers, expected[last + 1:])), (sent, last)
    assert last > 5


def test_pictures_beyond_the_limit_are_refused(tiny_model, tmp_path, clips):
    packets, _ = clips("vp9")
    with Daemon(tiny_model, tmp_path / "s", "--max-pixels", "4096") as d:
        with client(d).stream("large") as s:
            events = list(s.results([packet(packets[0], "vp9"), rgb(cases.frames((65, 64), 1, 0)[0]),
                                     rgb(cases.frames((64, 64), 1, 0)[0])]))
    assert [(e.seq, e.problem["status"]) for e in events if isinstance(e, Failed)] == [(0, 413), (1, 413)]
    assert [e.seq for e in events if isinstance(e, Answer)] == [2]
