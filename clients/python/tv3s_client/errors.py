"""What goes wrong, as exceptions. Those that the server explains carry its problem object."""
from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Dict, Iterator, Optional

if TYPE_CHECKING:
    from .http import Job


class Tv3sError(Exception):
    """The server refused. `problem` is its problem object (RFC 9457)."""

    def __init__(self, problem: Dict[str, Any]):
        self.problem = problem
        text = problem.get("detail") or problem.get("title") or "error"
        super().__init__(f"{text} ({self.status or 'no status'}, {self.type})")

    @property
    def type(self) -> str:
        """The stable name of the problem, such as "not-found"."""
        return str(self.problem.get("type", "")).rsplit("/", 1)[-1]

    @property
    def status(self) -> Optional[int]:
        """The HTTP status."""
        return self.problem.get("status")


class FrameFailed(Tv3sError):
    """One frame of a stream failed; the stream goes on as if it had not been sent."""

    def __init__(self, seq: Optional[int], problem: Dict[str, Any]):
        super().__init__(problem)
        self.seq = seq


class JobFailed(Tv3sError):
    """An uploaded video ended without masks."""

    def __init__(self, job: Job):
        super().__init__(job.error or {"title": f"the job was {job.state}"})
        self.job = job


class ConnectionLost(Exception):
    """The WebSocket ended before it was to. `code` and `reason` are the close frame's; `bye` is the reason that
    the server gave, such as "drain" or "takeover", if it gave one."""

    def __init__(self, code: Optional[int], reason: str, bye: Optional[str]):
        super().__init__(f"the connection ended: {bye or reason or 'no reason given'} ({code})")
        self.code, self.reason, self.bye = code, reason, bye


class ProtocolError(Exception):
    """The server says what proto/PROTOCOL.md does not know."""


@contextlib.contextmanager
def naming(what: Any) -> Iterator[None]:
    """The system's errors say why, and not with what."""
    try:
        yield
    except (OSError, asyncio.TimeoutError) as e:
        if not isinstance(e, OSError):  # asyncio's own, before Python 3.11
            raise TimeoutError(f"too late: {what}") from None
        if e.strerror:
            e.strerror = f"{e.strerror}: {what}"
        else:  # not the system's: too late, or several in one
            e.args = (f"{str(e) or 'too late'}: {what}",)
        raise
