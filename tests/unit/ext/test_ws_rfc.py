"""RFC 6455 over a raw socket: what is allowed is answered, each violation ends with its documented close code."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from tests.support.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    REQUEST,
    TEXT,
    client_frame,
    close_body,
)
from tests.unit.ext.conftest import StartSite

pytestmark = pytest.mark.usefixtures("quiet")

VIOLATIONS = {
    "rsv1": (client_frame(TEXT, b"x", rsv=4), 1002),
    "rsv2": (client_frame(TEXT, b"x", rsv=2), 1002),
    "rsv3 on a ping": (client_frame(PING, rsv=1), 1002),
    **{f"opcode {n}": (client_frame(n, b"x"), 1002) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "unmasked text": (client_frame(TEXT, b"x", masked=False), 1002),
    "unmasked close": (client_frame(CLOSE, masked=False), 1002),
    "fragmented ping": (client_frame(PING, fin=False), 1002),
    "ping of 126 bytes": (client_frame(PING, b"x" * 126), 1002),
    "close of 126 bytes": (client_frame(CLOSE, close_body(1000, "x" * 124)), 1002),
    "continuation of nothing": (client_frame(CONTINUATION, b"x"), 1002),
    "text inside a message": (client_frame(TEXT, b"x", fin=False) + client_frame(TEXT, b"y"), 1002),
    "continuation after the end": (client_frame(TEXT, b"x") + client_frame(CONTINUATION, b"y"), 1002),
    "16-bit length below 126": (client_frame(TEXT, b"x", length=b"\x7e\x00\x01"), 1002),
    "64-bit length below 65,536": (client_frame(TEXT, b"x", length=b"\x7f" + (126).to_bytes(8, "big")), 1002),
    "64-bit length with its highest bit": (client_frame(TEXT, b"x", length=b"\x7f\x80" + bytes(7)), 1002),
    "close of one byte": (client_frame(CLOSE, b"x"), 1002),
    **{
        f"close with {code}": (client_frame(CLOSE, close_body(code)), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "close reason not UTF-8": (client_frame(CLOSE, b"\x03\xe8\xff"), 1007),
    **{
        f"text {bad.hex()}": (client_frame(TEXT, b"fine " + bad), 1007)
        for bad in (
            b"\xff",
            b"\x80",
            b"\xc0\xaf",
            b"\xe0\x80\xaf",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xf0\x9f\x98",
        )
    },
    "character cut by the end": (client_frame(TEXT, b"\xce", fin=False) + client_frame(CONTINUATION, b""), 1007),
    "message of 65,537 bytes": (client_frame(BINARY, bytes(65_537)), 1009),
    "announced petabyte": (client_frame(BINARY, length=b"\x7f\x00\x04" + bytes(6)), 1009),
    "fragments of 65,537 bytes": (
        client_frame(BINARY, bytes(65_536), fin=False) + client_frame(CONTINUATION, b"x"),
        1009,
    ),
    "129 fragments": (client_frame(TEXT, fin=False) + client_frame(CONTINUATION, fin=False) * 128, 1009),
}


@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
async def test_violations(start_site: StartSite, data: bytes, code: int) -> None:
    site = await start_site()
    client = await site.open(data + client_frame(TEXT, b"too late"))
    frames = []
    while (frame := await client.frame())[0] != CLOSE:
        frames.append(frame)
    assert int.from_bytes(frame[1][:2], "big") == code
    assert (TEXT, b"too late") not in frames
    assert await client.rest() == b""
    client.writer.close()
    assert (await site.handlers[0].end())[0] == code


@pytest.mark.parametrize(
    ("body", "echoed", "told"),
    [
        (b"", (1005, ""), (1005, "")),
        *((close_body(c, "bye é"), (c, ""), (c, "bye é")) for c in (1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999)),
    ],
)
async def test_close_is_echoed(
    start_site: StartSite, body: bytes, echoed: tuple[int, str], told: tuple[int, str]
) -> None:
    site = await start_site()
    client = await site.open(client_frame(CLOSE, body) + client_frame(TEXT, b"after the close"))
    assert await client.closed() == echoed
    assert await site.handlers[0].end() == told
    assert site.handlers[0].count("text") == 0


async def test_our_close_waits_for_theirs(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open()
    site.handlers[0].connection.send_text("last words")
    site.handlers[0].connection.close(4001, "go away")
    assert site.handlers[0].connection.closing
    site.handlers[0].connection.send_text("dropped")
    assert await client.frame() == (TEXT, b"last words")
    assert await client.frame() == (CLOSE, close_body(4001, "go away"))
    client.send(client_frame(TEXT, b"dropped") + client_frame(CLOSE, close_body(4001)))
    assert await client.rest() == b""
    assert await site.handlers[0].end() == (4001, "go away")
    assert site.handlers[0].count("text") == 0


async def test_both_close_at_once(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open(client_frame(CLOSE, close_body(1001)))
    site.handlers[0].connection.close(4000)
    assert await client.closed() == (4000, "")
    assert await site.handlers[0].end() == (4000, "")


async def test_violation_while_closing_ends_it(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open()
    site.handlers[0].connection.close()
    client.send(client_frame(3))
    assert await client.closed() == (1000, "")
    client.writer.close()
    assert await site.handlers[0].end() == (1000, "")


async def test_vanished_peers_are_1006(start_site: StartSite) -> None:
    site = await start_site()
    for leave in ("reset", "eof"):
        client = await site.open(client_frame(TEXT, b"half")[:-2])
        if leave == "reset":
            client.reset()
        else:
            client.writer.write_eof()
            assert await client.rest() == b""
        assert await site.handlers[-1].end() == (1006, "")


async def test_half_closed_peer_still_gets_its_answer(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open(client_frame(TEXT, b"question"))
    client.writer.write_eof()
    assert await client.rest() == b"\x81\x08question"
    assert await site.handlers[0].end() == (1006, "")


async def test_messages_come_back(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open()
    for size in (0, 1, 125, 126, 65_535, 65_536):
        for opcode, byte in ((TEXT, b"t"), (BINARY, b"\xff")):
            client.send(client_frame(opcode, byte * size))
            assert await client.frame() == (opcode, byte * size)


async def test_fragments_with_control_frames_between(start_site: StartSite) -> None:
    site = await start_site()
    smile = "\N{GRINNING FACE}".encode()
    client = await site.open(
        client_frame(TEXT, smile[:1], fin=False)
        + client_frame(PING, b"one")
        + client_frame(CONTINUATION, smile[1:3], fin=False)
        + client_frame(PONG, b"unasked")
        + client_frame(CONTINUATION, b"", fin=False)
        + client_frame(PING, b"two")
        + client_frame(CONTINUATION, smile[3:])
        + client_frame(BINARY, b"next")
    )
    assert [await client.frame() for _ in range(4)] == [
        (PONG, b"one"),
        (PONG, b"two"),
        (TEXT, smile),
        (BINARY, b"next"),
    ]


async def test_byte_by_byte(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.connect()
    for byte in REQUEST + client_frame(TEXT, "é slow".encode()) + client_frame(PING, b"p"):
        client.send(bytes((byte,)))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.answer())[0] == 101
    assert await client.frame() == (TEXT, "é slow".encode())
    assert await client.frame() == (PONG, b"p")


async def test_data_sent_with_the_request(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.connect(REQUEST + client_frame(TEXT, b"early") + client_frame(TEXT, b"half")[:7])
    assert (await client.answer())[0] == 101
    assert await client.frame() == (TEXT, b"early")
    client.send(client_frame(TEXT, b"half")[7:])
    assert await client.frame() == (TEXT, b"half")


async def test_bad_text_is_closed_before_its_frame_ends(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open(client_frame(TEXT, b"\xc3\x28" + b"x" * 1000)[:20])
    assert await client.closed() == (1007, "text is not UTF-8")


async def test_pings_are_answered_in_order(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open(b"".join(client_frame(PING, b"%d" % n) for n in range(50)))
    assert [await client.frame() for _ in range(50)] == [(PONG, b"%d" % n) for n in range(50)]


async def test_what_is_sent_in_one_turn_leaves_in_one_write(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open()
    connection = site.handlers[0].connection
    connection.send_text("a")
    connection.send_many(["b", b"c", "é" * 100])
    connection.send_binary(b"d")
    connection.ping(b"e")
    connection.send_many([])
    assert connection.buffered == sum((3, 3, 3, 204, 3, 3))
    expected = [(TEXT, b"a"), (TEXT, b"b"), (TEXT, b"c"), (TEXT, "é".encode() * 100), (BINARY, b"d"), (PING, b"e")]
    assert [await client.frame() for _ in expected] == expected
    assert connection.buffered == 0


async def test_misuse_is_told_to_the_caller(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open()
    connection = site.handlers[0].connection
    for code in (999, 1005, 1006, 1015):
        with pytest.raises(ValueError, match="may not be sent"):
            connection.close(code)
    with pytest.raises(ValueError, match="125 bytes"):
        connection.ping(bytes(126))
    for wrong in (None, 1, bytearray(b"x")):
        with pytest.raises(TypeError):
            connection.send_text(wrong)
    for send in (connection.send_text, lambda text: connection.send_many(["fine", text])):
        with pytest.raises(UnicodeEncodeError):
            send("\ud800")
    connection.send_text("unharmed")
    assert await client.frame() == (TEXT, b"unharmed")


async def test_after_the_end_everything_is_harmless(start_site: StartSite) -> None:
    site = await start_site()
    client = await site.open()
    handler = site.handlers[0]
    connection = handler.connection
    assert connection.peer == client.writer.get_extra_info("sockname")
    assert connection.last_activity <= asyncio.get_running_loop().time()
    client.reset()
    await handler.end()
    for _ in range(2):
        connection.send_text("x")
        connection.send_many(["x"])
        connection.send_binary(b"x")
        connection.ping()
        connection.pause_reading()
        connection.resume_reading()
        connection.close()
        connection.abort()
    assert (connection.buffered, connection.closing, connection.peer) == (0, True, ("", 0))
    assert connection.request is None
    assert list(itertools.chain(*handler.calls)).count("close") == 1
