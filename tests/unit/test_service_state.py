"""How a Service is, in a word and a sentence."""

import pytest

from pyproxy.core.service_state import Seen, state_of


@pytest.mark.parametrize(
    ("seen", "state", "sentence"),
    [
        (Seen(), "healthy", ""),
        (Seen(left="ExternalName"), "left", "not proxied: DNS answers with a CNAME"),
        (Seen(left="Headless", total=0), "left", "not proxied: headless"),
        (Seen(ports=0, frontends=0), "left", "not proxied: it has no ports"),
        (Seen(total=0, ready=0, usable=0), "failing", "it has no endpoints"),
        (Seen(total=3, ready=0, usable=0), "failing", "none of 3 endpoints is ready"),
        (
            Seen(total=1, ready=1, usable=0),
            "failing",
            "its traffic policy leaves none of 1 endpoint",
        ),
        (Seen(frontends=2, unbound=2), "failing", "none of its addresses can be listened on"),
        (Seen(frontends=0, total=0, ready=0, usable=0), "failing", "it has no endpoints"),
        (Seen(frontends=2, unbound=1), "degraded", "1 of 2 addresses cannot be listened on"),
        (Seen(total=3, ready=2, usable=2), "degraded", "2 of 3 endpoints ready"),
        (Seen(ejected=1), "degraded", "endpoints that cannot be connected are left out"),
        (Seen(errors=1), "degraded", "1 error in the last minute"),
        (
            Seen(ejected=1, errors=2),
            "degraded",
            "endpoints that cannot be connected are left out; 2 ",
        ),
        (Seen(total=9, ready=9, usable=3), "healthy", ""),  # zone hints keep to the nearest
    ],
)
def test_state_and_sentence(seen: Seen, state: str, sentence: str) -> None:
    found, why = state_of(seen)
    assert found == state
    assert why.startswith(sentence)
    assert bool(why) == bool(sentence)
