"""What a user changes on one device is told to the user's others, at whichever gateway they are."""

from __future__ import annotations

import pytest

from tests.support.client import Device, User
from tests.support.polling import eventually
from tests.support.stack import GATEWAYS, Stack

pytestmark = pytest.mark.slow


def events(device: Device) -> list[tuple[str, str]]:
    """Name and conversation of the events that it was told."""
    return [(f["name"], f["data"]["conversation_id"]) for f in device.frames if f["type"] == "event"]


async def test_a_change_reaches_the_devices_at_both_gateways_and_nobody_elses(user: User, stack: Stack) -> None:
    here, there = [await user.connect(gateway) for gateway in GATEWAYS]
    async with await User.new(stack) as other:
        stranger = await other.connect(GATEWAYS[1])
        conversation = await user.conversation()
        title = 0

        async def both_are_told() -> bool:
            # A note of presence is found within moments, so the first changes may be told on one side only.
            nonlocal title
            title += 1
            body = {"title": f"number {title}"}
            await user.call("PATCH", f"/v1/conversations/{conversation}", body, GATEWAYS[0])
            await user.call("PATCH", f"/v1/conversations/{conversation}", body, GATEWAYS[1])
            return all(("conversation.updated", conversation) in events(device) for device in (here, there))

        await eventually(both_are_told)
        await user.call("DELETE", f"/v1/conversations/{conversation}", None, GATEWAYS[1])
        # What two gateways tell is in no order between them.
        for device in (here, there):
            await eventually(lambda device=device: ("conversation.deleted", conversation) in events(device))
            deleted = [f for f in device.frames if f["type"] == "event" and f["name"] == "conversation.deleted"]
            assert [frame["data"] for frame in deleted] == [{"conversation_id": conversation}]
        assert events(stranger) == []
