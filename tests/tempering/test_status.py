"""Status messages: each failure names a remedy."""

import pytest

from numpyro_disco.tempering import status
from numpyro_disco.tempering.status import status_message


def test_messages_are_long_enough_to_name_a_remedy():
    for code in range(1, 8):
        assert len(status_message(code, 0.5, 3)) > 40


@pytest.mark.parametrize(
    "name", ["STUCK", "NON_FINITE", "COLLAPSED", "FROZEN", "DISAGREE", "MISSED"]
)
def test_failures_have_messages_of_their_own(name):
    message = status_message(getattr(status, name), 0.25, 7)
    assert "{" not in message
    if name in ("STUCK", "COLLAPSED"):
        assert "0.25" in message
    if name == "STUCK":
        assert "7 steps" in message
