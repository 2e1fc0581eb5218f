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


async def told_across(user: User, conversation: str, gateway: str, device: Device) -> bool:
    """Changes something at `gateway`; whether `device`, at another one, was told of that or of an earlier such change.
    A note of presence is found within moments, so the first changes may not be.
    """
    title = f"by {gateway}"
    await user.call("PATCH", f"/v1/conversations/{conversation}", {"title": title}, gateway)
    told = [frame["data"] for frame in device.frames if frame["type"] == "event"]
    return any(data["conversation"]["title"] == title for data in told if "conversation" in data)


async def test_a_change_reaches_the_devices_at_both_gateways_and_nobody_elses(user: User, stack: Stack) -> None:
    here, there = [await user.connect(gateway) for gateway in GATEWAYS]
    async with await User.new(stack) as other:
        stranger = await other.connect(GATEWAYS[1])
        conversation = await user.conversation()
        for gateway, device in ((GATEWAYS[0], there), (GATEWAYS[1], here)):
            await eventually(lambda at=gateway, to=device: told_across(user, conversation, at, to))
        await user.call("DELETE", f"/v1/conversations/{conversation}", None, GATEWAYS[1])
        # What two gateways tell is in no order between them.
        for device in (here, there):
            await eventually(lambda device=device: ("conversation.deleted", conversation) in events(device))
            deleted = [f for f in device.frames if f["type"] == "event" and f["name"] == "conversation.deleted"]
            assert [frame["data"] for frame in deleted] == [{"conversation_id": conversation}]
        assert events(stranger) == []
