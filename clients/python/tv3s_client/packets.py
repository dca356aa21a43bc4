"""Packets of a video as frames for a stream, out of what FFmpeg, cameras and encoders write: IVF (VP8, VP9, AV1) and
Annex B (H.264, HEVC). They are not decoded here."""
from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from typing import IO, Iterator, List, Optional, Union

from .errors import ProtocolError
from .message import Frame

_FOURCC = {b"VP80": "vp8", b"VP90": "vp9", b"AV01": "av1"}
_CHUNK = 1 << 16


def packets(source: Union[str, "os.PathLike[str]", IO[bytes]], codec: Optional[str] = None, *,
            first: Optional[int] = None) -> Iterator[Frame]:
    """The packets of a path or an open file, which may be a pipe, each with its key frame flag and, in IVF, its time.
    `codec` is "h264" or "hevc" for Annex B; IVF says itself what it is. With `first` they are numbered by their places,
    and begin at the first key frame from that place on: so `client.resuming(id, lambda n: packets(path, first=n))` goes
    on after a lost connection, without the frames up to that key frame."""
    with ExitStack() as stack:
        file = stack.enter_context(open(source, "rb")) if isinstance(source, (str, os.PathLike)) else source
        begun = first is None
        for i, frame in enumerate(_annex_b(file, codec) if codec in ("h264", "hevc") else _ivf(file)):
            begun = begun or (frame.key_frame and i >= (first or 0))
            if begun:
                frame.seq = None if first is None else i
                yield frame


def _exactly(file: IO[bytes], count: int) -> bytes:
    parts: List[bytes] = []
    while count > 0 and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


# ---- IVF ------------------------------------------------------------------------------------------------------------


def _leb128(data: bytes, at: int) -> "tuple[int, int]":
    value = 0
    for i in range(min(8, len(data) - at)):
        value |= (data[at + i] & 0x7f) << 7 * i
        if data[at + i] < 0x80:
            return value, at + i + 1
    raise ProtocolError("a packet of AV1 is damaged")


def _has_sequence_header(data: bytes) -> bool:
    """Of an AV1 temporal unit, which then begins with a key frame."""
    at = 0
    while at < len(data):
        header = data[at]
        if header >> 3 & 15 == 1:
            return True
        if not header & 2:
            return False  # it lasts to the end
        size, at = _leb128(data, at + 1 + (header >> 2 & 1))
        at += size
    return False


def _is_key(codec: str, data: bytes) -> bool:
    if codec == "vp8":
        return not data[0] & 1
    if codec == "av1":
        return _has_sequence_header(data)
    bits = data[0] << 1 if data[0] & 0x30 == 0x30 else data[0]  # profile 3 has a bit more
    return not bits & 0x0c  # neither a frame shown before, nor one between


def _ivf(file: IO[bytes]) -> Iterator[Frame]:
    head = _exactly(file, 32)
    if len(head) < 32 or head[:4] != b"DKIF" or head[8:12] not in _FOURCC:
        raise ProtocolError("neither IVF of VP8, VP9 or AV1, nor named as Annex B: codec= \"h264\" or \"hevc\"")
    size, codec = struct.unpack_from("<H", head, 6)[0], _FOURCC[head[8:12]]
    rate, scale = struct.unpack_from("<II", head, 16)
    _exactly(file, size - 32)
    while len(head := _exactly(file, 12)) == 12:
        length, time = struct.unpack("<IQ", head)
        data = _exactly(file, length)
        if not length or len(data) < length:
            raise ProtocolError("the file is cut off")
        yield Frame.packet(data, codec, key_frame=_is_key(codec, data),
                           pts=round(1000000 * time * scale / rate) if rate else None)


# ---- Annex B --------------------------------------------------------------------------------------------------------


def _nal_units(file: IO[bytes]) -> Iterator[bytes]:
    """Each with its start code."""
    read = getattr(file, "read1", file.read)
    buffer = b""
    while part := read(_CHUNK):
        begin = max(4, len(buffer) - 3)
        buffer += part
        while (at := buffer.find(b"\0\0\1", begin)) >= 0:
            at -= buffer[at - 1] == 0
            yield buffer[:at]
            buffer, begin = buffer[at:], 4
    if buffer:
        yield buffer


def _annex_b(file: IO[bytes], codec: str) -> Iterator[Frame]:
    """A unit is known to be the last of its picture when the next begins."""
    unit: List[bytes] = []
    picture = key = False
    for nal in _nal_units(file):
        at = nal.find(b"\0\0\1") + 3
        if at >= len(nal):
            continue  # nothing in it
        if codec == "h264":
            kind = nal[at] & 31
            of_picture, is_key = 1 <= kind <= 5, kind == 5
            begins = 6 <= kind <= 9 or 14 <= kind <= 18 or (of_picture and nal[at + 1:at + 2] >= b"\x80")
        else:
            kind = nal[at] >> 1 & 63
            of_picture, is_key = kind < 32, 16 <= kind <= 23
            begins = 32 <= kind <= 35 or kind == 39 or 41 <= kind <= 44 or 48 <= kind <= 55 or (
                of_picture and nal[at + 2:at + 3] >= b"\x80")
        if begins and picture:
            yield Frame.packet(b"".join(unit), codec, key_frame=key)
            unit, picture, key = [], False, False
        unit.append(nal)
        picture, key = picture or of_picture, key or is_key
    if picture:
        yield Frame.packet(b"".join(unit), codec, key_frame=key)
