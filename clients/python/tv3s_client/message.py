"""WebSocket messages as bytes: the headers of proto/PROTOCOL.md. Nothing here touches a socket."""
from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Dict, Optional, Union

from .errors import ProtocolError

FORMATS = ("png", "raw", "rle", "coco_rle", "overlay", "labels")
KINDS = {"image": 1, "rgb24": 2, "nv12": 3, "packet": 4}
CODECS = {"h264": 1, "hevc": 2, "vp8": 3, "vp9": 4, "av1": 5}
NO_PTS = -2 ** 63
Bytes = Union[bytes, bytearray, memoryview]

_FRAME = struct.Struct("<4sBBBBqqII")
_ANSWER = struct.Struct("<4sBBHqqIIIIII")


@dataclass
class Frame:
    """One frame to be sent. Make it with `image`, `rgb24`, `nv12` or `packet`."""

    data: Bytes
    kind: str = "image"
    codec: Optional[str] = None
    width: int = 0
    height: int = 0
    pts: Optional[int] = None
    """Presentation time in microseconds."""
    key_frame: bool = False
    silent: bool = False
    """Advance the state, send no mask."""
    seq: Optional[int] = None
    """The number; None: the next one."""

    @staticmethod
    def image(data: Bytes, *, pts: Optional[int] = None, silent: bool = False, seq: Optional[int] = None) -> "Frame":
        """A JPEG, PNG, WebP or other image file."""
        return Frame(data, pts=pts, silent=silent, seq=seq)

    @staticmethod
    def rgb24(data: Bytes, width: int, height: int, *, pts: Optional[int] = None, silent: bool = False,
              seq: Optional[int] = None) -> "Frame":
        """Packed RGB, 3 * width * height bytes."""
        return Frame(data, "rgb24", width=width, height=height, pts=pts, silent=silent, seq=seq)

    @staticmethod
    def nv12(data: Bytes, width: int, height: int, *, pts: Optional[int] = None, silent: bool = False,
             seq: Optional[int] = None) -> "Frame":
        """BT.709 limited range: the luma plane, then interleaved chroma at half size."""
        return Frame(data, "nv12", width=width, height=height, pts=pts, silent=silent, seq=seq)

    @staticmethod
    def packet(data: Bytes, codec: str, *, key_frame: bool = False, pts: Optional[int] = None, silent: bool = False,
               seq: Optional[int] = None) -> "Frame":
        """One packet of a video: an access unit (h264, hevc: Annex B), frame (vp8, vp9) or temporal unit (av1)."""
        return Frame(data, "packet", codec, pts=pts, key_frame=key_frame, silent=silent, seq=seq)

    def pack(self, seq: int) -> bytes:
        """The message."""
        flags = (1 if self.key_frame else 0) | (2 if self.silent else 0)
        pts = NO_PTS if self.pts is None else self.pts
        codec = CODECS[self.codec] if self.codec else 0
        header = _FRAME.pack(b"TV3F", 1, KINDS[self.kind], codec, flags, seq, pts, self.width, self.height)
        return b"".join((header, self.data))


@dataclass
class Answer:
    """The mask of one frame."""

    seq: int
    pts: Optional[int]
    format: Optional[str]
    """None: the frame was silent."""
    width: int
    height: int
    from_zero: bool
    """The hidden state was zero before this frame."""
    decode_us: int
    queue_us: int
    compute_us: int
    encode_us: int
    data: bytes
    """The mask in its format."""

    @staticmethod
    def unpack(message: bytes) -> "Answer":
        if len(message) < _ANSWER.size:
            raise ProtocolError("an answer without its header")
        (magic, version, number, flags, seq, pts, width, height,
         decode, queue, compute, encode) = _ANSWER.unpack_from(message)
        if magic != b"TV3M" or version != 1 or number not in (*range(len(FORMATS)), 255):
            raise ProtocolError("a binary message that is no answer")
        return Answer(seq, None if pts == NO_PTS else pts, None if number == 255 else FORMATS[number], width, height,
                      bool(flags & 1), decode, queue, compute, encode, message[_ANSWER.size:])


@dataclass
class Dropped:
    """A frame that will not be answered. reason: oldest, newest, overload, drain, or empty (a packet without a
    picture)."""

    seq: int
    reason: str


@dataclass
class Failed:
    """A frame that failed, alone."""

    seq: Optional[int]
    problem: Dict[str, Any]


@dataclass
class Restarted:
    """The size changed with this frame: the hidden state began anew."""

    seq: int


Event = Union[Answer, Dropped, Failed, Restarted]


def authorization(key: Optional[str]) -> Dict[str, str]:
    """The header that carries the key, if there is one."""
    return {"Authorization": f"Bearer {key}"} if key else {}
