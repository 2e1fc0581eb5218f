"""One request to an ASGI application whose answer is read while it is still being made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tests.support.polling import eventually


class Exchange:
    """A request under way: `status`, `headers` and `body` are what was answered so far. `whole` false: more of the
    body is announced and never comes.
    """

    def __init__(
        self,
        application: Any,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        whole: bool = True,
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": not whole})
        raw_path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": raw_path,
            "raw_path": raw_path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("192.0.2.1", 1),
            "server": ("chat.test", 80),
        }
        self.task = asyncio.create_task(application(scope, self._incoming.get, self._send))

    async def shows(self, text: str, within_s: float = 5.0) -> None:
        """Waits until the text has been answered."""
        await eventually(lambda: text.encode() in self.body, within_s, f"{text!r} in {self.body!r}")

    async def leave(self) -> None:
        """The client disconnects; waits for the application to notice."""
        self._incoming.put_nowait({"type": "http.disconnect"})
        await self.ended()

    async def ended(self, within_s: float = 5.0) -> None:
        """Waits for the application to return."""
        await asyncio.wait_for(asyncio.shield(self.task), within_s)

    async def _send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)
