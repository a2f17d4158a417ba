"""What a caller gets of an error: a message that fits a status, whatever it quotes."""

from urllib.parse import quote

import pytest

from visionloop.rpc_errors import MAX_DETAILS, details


@pytest.mark.parametrize("message", ["x" * 200_000, "é\n" * 5_000])
def test_a_message_is_cut_to_what_a_status_can_carry(message: str) -> None:
    kept = details(message)
    assert kept.endswith("…")
    assert message.startswith(kept[:-1])
    assert len(quote(kept[:-1])) <= MAX_DETAILS
    assert details("as it is") == "as it is"
