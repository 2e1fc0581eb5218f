"""What a call is answered with, and where that is said.

The first that exists counts: a script queued for the call (`POST /_script`), a directive in the last user message
(`[[mock {"chunks": 8}]]`), the suffix of the model's name after its last `-` (`mock-cut`), the default script.
"""

import json
from collections import deque
from typing import Literal

import msgspec

Fault = Literal["cut", "rst", "hang", "malformed", "error", "no_done", "no_finish"]


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    arguments: str


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One answer.

    `text`: the answer, else `chunks` (16) pieces made from `seed`, else from the last user message.
    `first_ms`: wait before the response's head; `delay_ms`: before every delta but the first. `coalesce`: how many
    deltas go out in one write when there is no delay.
    `fail` happens when `after` deltas were sent; -1 means before the response's head (then `cut` and `rst`
    close without an answer). `cut` ends the connection with FIN, `rst` with RST, `hang` sends nothing more (but
    comments, where `comments` is set), `malformed` sends a broken chunk, `error` an error event; `no_done`
    leaves out `[DONE]`, `no_finish` the finish reason. `gate`: when `gate_after` deltas were sent (-1: before the
    head) wait until that gate is opened.
    `status` other than 200 refuses the call, with `retry_after_s` and `message`.
    `usage` false: usage is not reported though asked for. `endless`: never finishes. `crlf`, `comments`: other legal
    ways to write the stream; `write_bytes` cuts it into writes of that size. `llama`: as llama.cpp's server,
    which closes the connection after a stream though it announces keep-alive.
    """

    text: str | None = None
    chunks: int | None = None
    seed: int | None = None
    first_ms: float = 0
    delay_ms: float = 0
    coalesce: int = 1
    fail: Fault | None = None
    after: int = 0
    gate: str | None = None
    gate_after: int = 0
    status: int = 200
    retry_after_s: float | None = None
    message: str | None = None
    code: str | None = None
    usage: bool = True
    cached_tokens: int = 0
    finish: str = "stop"
    endless: bool = False
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    crlf: bool = False
    comments: bool = False
    llama: bool = False
    write_bytes: int | None = None


DEFAULT = Script()
PRESETS: dict[str, Script] = {
    "slow": Script(first_ms=3000),
    "drip": Script(delay_ms=250),
    "hang": Script(fail="hang", after=4),
    "mute": Script(fail="hang", after=-1),
    "429": Script(status=429, retry_after_s=1),
    "500": Script(status=500),
    "503": Script(status=503),
    "cut": Script(fail="cut", after=4),
    "rst": Script(fail="rst", after=4),
    "malformed": Script(fail="malformed", after=4),
    "error": Script(fail="error", after=4),
    "nodone": Script(fail="no_done"),
    "nousage": Script(usage=False),
    "endless": Script(endless=True, delay_ms=5),
    "long": Script(chunks=400, delay_ms=10),
    "reasoning": Script(reasoning="Let me think about that. "),
    "tools": Script(tool_calls=(ToolCall("get_weather", '{"city": "Zürich"}'),)),
}


class Queued(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /_script`: `scripts` for the following calls in order, each used once. `model` and `contains`
    (a part of the last user message) restrict which calls take from it."""

    scripts: list[Script]
    model: str | None = None
    contains: str | None = None


class ScriptError(ValueError):
    """A directive is not a script; the call is answered with HTTP 400."""


class Scripts:
    """The queue, and the choice."""

    def __init__(self, default: Script = DEFAULT) -> None:
        self.default = default
        self._queued: list[tuple[Queued, deque[Script]]] = []

    def queue(self, queued: Queued) -> None:
        self._queued.append((queued, deque(queued.scripts)))

    def clear(self) -> None:
        self._queued.clear()

    def choose(self, model: str, last_user: str) -> Script:
        """The script for a call. Takes it from the queue where it comes from there. Raises ScriptError."""
        for entry in self._queued:
            queued, scripts = entry
            if queued.model in (None, model) and (queued.contains is None or queued.contains in last_user):
                script = scripts.popleft()
                if not scripts:
                    self._queued.remove(entry)
                return script
        return directive(last_user) or PRESETS.get(model.rpartition("-")[2], self.default)


def directive(content: str) -> Script | None:
    """The script inside a message. Raises ScriptError where there is one that is wrong."""
    _, mark, rest = content.partition("[[mock ")
    if not mark:
        return None
    try:
        fields, end = json.JSONDecoder().raw_decode(rest.lstrip())
        if not rest.lstrip()[end:].lstrip().startswith("]]"):
            raise ScriptError("the directive does not end with ]]")
        return msgspec.convert(fields, Script)
    except (json.JSONDecodeError, msgspec.ValidationError) as error:
        raise ScriptError(f"the directive is not a script: {error}") from None
