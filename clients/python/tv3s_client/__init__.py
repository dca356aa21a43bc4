"""Client of tv3sd: upload videos, stream frames, get masks. See README.md."""
from .aio import AsyncClient
from .errors import ConnectionLost, FrameFailed, JobFailed, ProtocolError, Tv3sError
from .http import Client, Job, Mask
from .message import Answer, Dropped, Failed, Frame, Restarted
from .packets import packets
from .stream import AsyncStream
from .sync import Stream

__all__ = ["Answer", "AsyncClient", "AsyncStream", "Client", "ConnectionLost", "Dropped", "Failed", "Frame",
           "FrameFailed", "Job", "JobFailed", "Mask", "ProtocolError", "Restarted", "Stream", "Tv3sError", "packets"]
