"""The client for asyncio: HTTP in threads (requests are few), streams as they are."""
from __future__ import annotations

import asyncio
from typing import IO, Any, AsyncIterator, Callable, Dict, List, Optional, Union

from .http import Client, Cutter, Job, Mask, Path, Progress, Source
from .message import Answer
from .stream import AsyncStream, Frames, resuming


class AsyncClient:
    """A server; the calls of Client, awaited. Their callbacks come in other threads."""

    def __init__(self, url: str = "http://127.0.0.1:8080", ws_url: Optional[str] = None, *, key: Optional[str] = None,
                 ca: Optional[Path] = None, timeout: float = 60, headers: Optional[Dict[str, str]] = None):
        self.sync = Client(url, ws_url, key=key, ca=ca, timeout=timeout, headers=headers)

    async def server(self) -> Dict[str, Any]:
        """Its version, its WebSocket, its limits."""
        return await asyncio.to_thread(self.sync.server)

    async def models(self) -> List[Dict[str, Any]]:
        """The models that are served, the default first."""
        return await asyncio.to_thread(self.sync.models)

    async def model(self, name: str) -> Dict[str, Any]:
        """One of them: its architecture, classes and colours."""
        return await asyncio.to_thread(self.sync.model, name)

    async def ready(self) -> bool:
        """Whether the server is there and its engines label frames."""
        return await asyncio.to_thread(self.sync.ready)

    async def metrics(self) -> str:
        """Counters and gauges, in Prometheus' text format."""
        return await asyncio.to_thread(self.sync.metrics)

    async def segment(self, image: Source, *, model: Optional[str] = None, format: Optional[str] = None,
                      resize: Optional[str] = None) -> Mask:
        """One image, one mask, no state."""
        return await asyncio.to_thread(self.sync.segment, image, model=model, format=format, resize=resize)

    # ---- videos -----------------------------------------------------------------------------------------------------

    async def upload(self, video: Source, *, model: Optional[str] = None, mode: Optional[str] = None,
                     format: Optional[str] = None, resize: Optional[str] = None, webhook: Optional[str] = None,
                     progress: Optional[Progress] = None) -> Job:
        """Sends a video. `progress(sent, total)` is called as it goes, `webhook` is the URL that is told of the end."""
        return await asyncio.to_thread(self.sync.upload, video, model=model, mode=mode, format=format, resize=resize,
                                       webhook=webhook, progress=progress)

    async def jobs(self) -> List[Job]:
        """All uploads, newest first."""
        return await asyncio.to_thread(self.sync.jobs)

    async def job(self, job: Union[Job, str]) -> Job:
        """The upload as it is now."""
        return await asyncio.to_thread(self.sync.job, job)

    async def events(self, job: Union[Job, str]) -> AsyncIterator[Job]:
        """The job at every change, as the server sends it. Ends with the job."""
        cutter = Cutter()
        source = self.sync.events(job, cutter=cutter)
        step = None
        try:
            while True:
                step = asyncio.ensure_future(asyncio.to_thread(lambda: next(source, None)))
                if (now := await asyncio.shield(step)) is None:
                    break
                yield now
        finally:
            if step and not step.done():  # cancelled: the thread would wait for the server's next event
                cutter.cut()
                await asyncio.wait([step])
                step.exception()  # what the cut made of it is of no interest
            await asyncio.to_thread(source.close)

    async def wait(self, job: Union[Job, str], *, progress: Optional[Callable[[Job], None]] = None,
                   timeout: Optional[float] = None) -> Job:
        """Waits until the job has ended. JobFailed when that is without masks, TimeoutError."""
        return await asyncio.to_thread(self.sync.wait, job, progress=progress, timeout=timeout)

    async def download(self, job: Union[Job, str], to: Union[Path, IO[bytes], None] = None, *,
                       progress: Optional[Progress] = None) -> bytes:
        """The masks of a whole video into a path or file, or returned when `to` is None."""
        return await asyncio.to_thread(self.sync.download, job, to, progress=progress)

    async def mask(self, job: Union[Job, str], frame: int) -> bytes:
        """One frame's mask, as soon as it is done."""
        return await asyncio.to_thread(self.sync.mask, job, frame)

    async def delete(self, job: Union[Job, str]) -> None:
        """Cancels, and deletes everything of it."""
        await asyncio.to_thread(self.sync.delete, job)

    # ---- streams ----------------------------------------------------------------------------------------------------

    async def open_stream(self, id: Optional[str] = None, *, model: Optional[str] = None, mode: Optional[str] = None,
                          format: Optional[str] = None, resize: Optional[str] = None) -> Dict[str, Any]:
        """Opens a stream, or finds it; without an ID the server makes one. Its description."""
        return await asyncio.to_thread(self.sync.open_stream, id, model=model, mode=mode, format=format,
                                       resize=resize)

    async def streams(self) -> List[Dict[str, Any]]:
        """All streams, described."""
        return await asyncio.to_thread(self.sync.streams)

    async def describe(self, id: str) -> Dict[str, Any]:
        """A stream: its parameters, last frame, state."""
        return await asyncio.to_thread(self.sync.describe, id)

    async def delete_stream(self, id: str) -> None:
        """Ends it, and its connection if it has one."""
        await asyncio.to_thread(self.sync.delete_stream, id)

    async def frame(self, id: str, image: Source) -> Mask:
        """One image of the stream over HTTP."""
        return await asyncio.to_thread(self.sync.frame, id, image)

    async def reset(self, id: str) -> None:
        """The hidden state is zero again."""
        await asyncio.to_thread(self.sync.reset, id)

    async def save_state(self, id: str, to: Optional[Path] = None) -> bytes:
        """The hidden state as a safetensors file."""
        return await asyncio.to_thread(self.sync.save_state, id, to)

    async def restore_state(self, id: str, state: Source) -> None:
        """Replaces the hidden state of a stream; makes the stream where there is none."""
        await asyncio.to_thread(self.sync.restore_state, id, state)

    def stream(self, id: str, *, model: Optional[str] = None, mode: Optional[str] = None,
               format: Optional[str] = None, resize: Optional[str] = None, drop: Optional[str] = None,
               credit: Optional[int] = None, takeover: bool = False, deflate: bool = False,
               timeout: float = 30) -> AsyncStream:
        """A live stream over WebSocket; see AsyncStream for the options."""
        return self.sync._stream(id, model=model, mode=mode, format=format, resize=resize, drop=drop, credit=credit,
                                 takeover=takeover, deflate=deflate, timeout=timeout)

    def resuming(self, id: str, frames_from: Callable[[int], Frames], *, attempts: int = 5, pause: float = 0.5,
                 **options: Any) -> AsyncIterator[Answer]:
        """The answers of a stream that outlives its connection: see stream.resuming; `options` as of `stream`."""
        return resuming(lambda: self.stream(id, takeover=True, **options), frames_from, attempts=attempts, pause=pause)
