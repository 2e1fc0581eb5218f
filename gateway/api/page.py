"""The chat page: the built files of `web/`, read once at the start, under a strict content security policy."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from pathlib import Path
from typing import Final

import msgspec
from litestar.types import Receive, Scope, Send

from core.errors import ParleyError
from gateway.api.errors import send_error
from gateway.api.scope import headers_of

MAX_FILES: Final = 2_000
MAX_BYTES: Final = 64 * 1024 * 1024
COMPRESS_FROM: Final = 1_024

_HASHED: Final = re.compile(r"/assets/.+[-.][A-Za-z0-9_-]{8,}\.\w+")
_COMPRESSIBLE: Final = ("text/", "application/json", "application/javascript", "image/svg+xml", "application/manifest")
_TYPES: Final = {".js": "text/javascript", ".mjs": "text/javascript", ".webmanifest": "application/manifest+json"}


class _File(msgspec.Struct, frozen=True):
    body: bytes
    gzipped: bytes | None
    kind: str
    etag: str
    immutable: bool


class Page:
    """An ASGI application. The page finds its way by the URL's fragment, so every path is a file or nothing."""

    def __init__(self, root: str) -> None:
        """Reads the folder; an empty `root` serves nothing. Raises ValueError where it is no folder or too large."""
        self._files = _read(Path(root)) if root else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        method, path = str(scope.get("method")), scope["path"]
        file = self._files.get("/index.html" if path == "/" else path)
        if file is None:
            await send_error(scope, send, ParleyError("not_found", "There is nothing at this address."))
            return
        if method not in ("GET", "HEAD"):
            refusal = ParleyError("method_not_allowed", "The page is only read.")
            await send_error(scope, send, refusal, allow="GET, HEAD")
            return
        gzipped = file.gzipped is not None and "gzip" in headers.get("accept-encoding", "")
        answer = {
            "content-type": file.kind,
            "etag": file.etag,
            "vary": "accept-encoding",
            "cache-control": "public, max-age=31536000, immutable" if file.immutable else "no-cache",
        }
        if headers.get("if-none-match") == file.etag:
            await _answer(send, 304, answer, b"")
            return
        body = file.gzipped if gzipped and file.gzipped is not None else file.body
        if gzipped:
            answer["content-encoding"] = "gzip"
        answer["content-length"] = str(len(body))
        await _answer(send, 200, answer, b"" if method == "HEAD" else body)


def _read(root: Path) -> dict[str, _File]:
    if not root.is_dir():
        raise ValueError(f"gateway.web_root: {root} is no folder; build the page first")
    files: dict[str, _File] = {}
    total = 0
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        body = path.read_bytes()
        total += len(body)
        if len(files) >= MAX_FILES or total > MAX_BYTES:
            raise ValueError(f"gateway.web_root: {root} holds more than {MAX_FILES} files or {MAX_BYTES} bytes")
        files["/" + path.relative_to(root).as_posix()] = _file(path, body, root)
    return files


def _file(path: Path, body: bytes, root: Path) -> _File:
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    compressible = kind.startswith(_COMPRESSIBLE) and len(body) >= COMPRESS_FROM
    return _File(
        body=body,
        gzipped=gzip.compress(body, 9, mtime=0) if compressible else None,
        kind=f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
        etag=f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        immutable=_HASHED.fullmatch("/" + path.relative_to(root).as_posix()) is not None,
    )


async def _answer(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})
