"""The client for asyncio: HTTP in threads (requests are few), streams as they are."""
from __future__ import annotations

import asyncio
import functools
import os
from typing import Any, AsyncIterator, Callable, Dict, List, Optional, Union

from .http import Client, Job, Mask, Source
from .message import Answer
from .stream import AsyncStream, Frames, resuming


class AsyncClient:
    """A server. Arguments as of Client; callbacks come in other threads."""

    def __init__(self, *args: Any, **options: Any):
        self.sync = Client(*args, **options)

    async def models(self) -> List[Dict[str, Any]]:
        return await asyncio.to_thread(self.sync.models)

    async def ready(self) -> bool:
        return await asyncio.to_thread(self.sync.ready)

    async def segment(self, image: Source, **options: Any) -> Mask:
        return await asyncio.to_thread(functools.partial(self.sync.segment, image, **options))

    async def upload(self, video: Source, **options: Any) -> Job:
        return await asyncio.to_thread(functools.partial(self.sync.upload, video, **options))

    async def jobs(self) -> List[Job]:
        return await asyncio.to_thread(self.sync.jobs)

    async def job(self, job: Union[Job, str]) -> Job:
        return await asyncio.to_thread(self.sync.job, job)

    async def wait(self, job: Union[Job, str], **options: Any) -> Job:
        return await asyncio.to_thread(functools.partial(self.sync.wait, job, **options))

    async def download(self, job: Union[Job, str], to: Any = None, **options: Any) -> bytes:
        return await asyncio.to_thread(functools.partial(self.sync.download, job, to, **options))

    async def mask(self, job: Union[Job, str], frame: int) -> bytes:
        return await asyncio.to_thread(self.sync.mask, job, frame)

    async def delete(self, job: Union[Job, str]) -> None:
        await asyncio.to_thread(self.sync.delete, job)

    async def open_stream(self, id: Optional[str] = None, **options: Any) -> Dict[str, Any]:
        return await asyncio.to_thread(functools.partial(self.sync.open_stream, id, **options))

    async def streams(self) -> List[Dict[str, Any]]:
        return await asyncio.to_thread(self.sync.streams)

    async def describe(self, id: str) -> Dict[str, Any]:
        return await asyncio.to_thread(self.sync.describe, id)

    async def delete_stream(self, id: str) -> None:
        await asyncio.to_thread(self.sync.delete_stream, id)

    async def frame(self, id: str, image: Source) -> Mask:
        return await asyncio.to_thread(self.sync.frame, id, image)

    async def reset(self, id: str) -> None:
        await asyncio.to_thread(self.sync.reset, id)

    async def save_state(self, id: str, to: Union[str, os.PathLike, None] = None) -> bytes:
        return await asyncio.to_thread(self.sync.save_state, id, to)

    async def restore_state(self, id: str, state: Source) -> None:
        await asyncio.to_thread(self.sync.restore_state, id, state)

    def stream(self, id: str, **options: Any) -> AsyncStream:
        """A live stream; see AsyncStream for the options."""
        return AsyncStream(self.sync.ws_url, id, **options)

    def resuming(self, id: str, frames_from: Callable[[int], Frames], *, attempts: int = 5, pause: float = 0.5,
                 **options: Any) -> AsyncIterator[Answer]:
        """The answers of a stream that outlives its connection: see stream.resuming."""
        return resuming(lambda: self.stream(id, takeover=True, **options), frames_from, attempts=attempts, pause=pause)
