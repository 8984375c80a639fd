"""Names like one that was asked for."""

import pytest

from pyproxy.core.near import near, near_texts

KNOWN = [
    ("shop", "cart"),
    ("shop", "checkout"),
    ("shop", "web"),
    ("test", "cart"),
    ("kube-system", "kube-dns"),
]


@pytest.mark.parametrize(
    ("namespace", "name", "found"),
    [
        ("shop", "crat", ["shop/cart", "shop/checkout"]),
        ("default", "cart", ["shop/cart", "test/cart"]),
        ("kube-sytem", "kube-dsn", ["kube-system/kube-dns"]),
        ("nothing", "like-it-at-all", []),
    ],
)
def test_the_same_name_elsewhere_goes_before_names_that_look_alike(
    namespace: str, name: str, found: list[str]
) -> None:
    assert near(namespace, name, KNOWN) == found


def test_at_most_three_are_told() -> None:
    assert len(near("a", "web", [(f"n{n}", "web") for n in range(9)])) == 3
    assert near_texts("web", [f"web{n}" for n in range(9)]) != []
