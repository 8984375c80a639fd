"""Which host name means what, when Services of many namespaces and contexts meet."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core.local_names import Scope, context_label, full_name, names_of
from pyproxy.core.local_service import Claimant

WEB = Claimant("kind", "shop", "web")
WEB_TEST = Claimant("kind", "test", "web")
WEB_PROD = Claimant("prod", "shop", "web")


def owned(*claimants: Claimant, scope: Scope | None = None) -> dict[str, Claimant]:
    return dict(names_of(claimants, scope or Scope()).owners)


def test_a_service_has_the_names_that_it_has_in_the_cluster() -> None:
    names = names_of([WEB], Scope())
    assert names.by_claimant() == {
        WEB: ("web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local")
    }
    assert full_name(WEB, "example.org") == "web.shop.svc.example.org"


def test_a_pod_has_its_own_name_in_front_of_its_services() -> None:
    pod = Claimant("kind", "shop", "db", "db-0")
    assert names_of([pod], Scope(domain="c.l")).by_claimant()[pod] == (
        "db-0.db",
        "db-0.db.shop",
        "db-0.db.shop.svc",
        "db-0.db.shop.svc.c.l",
    )


def test_a_short_name_that_two_services_want_is_nobodys() -> None:
    names = names_of([WEB, WEB_TEST], Scope())
    assert "web" not in names.owners
    assert names.contested == ("web",)
    assert names.owners["web.shop"] == WEB
    assert names.owners["web.test"] == WEB_TEST


def test_a_short_name_that_two_services_want_is_the_first_namespaces() -> None:
    names = names_of([WEB, WEB_TEST], Scope(namespaces=("test", "shop")))
    assert names.owners["web"] == WEB_TEST
    assert names.contested == ()
    # The first namespace may have none of that name.
    elsewhere = names_of([WEB, WEB_TEST], Scope(namespaces=("other", "shop")))
    assert elsewhere.contested == ("web",)


def test_of_several_contexts_the_first_has_the_names_and_each_has_its_own() -> None:
    scope = Scope(contexts=("prod", "kind"), namespaces=("shop",))
    found = owned(WEB, WEB_PROD, WEB_TEST, scope=scope)
    assert found["web"] == WEB_PROD
    assert found["web.shop"] == found["web.shop.svc.cluster.local"] == WEB_PROD
    assert found["web.test"] == WEB_TEST
    assert found["web.shop.kind"] == WEB
    assert found["web.shop.prod"] == WEB_PROD


def test_a_longer_form_is_what_a_name_was_meant_as() -> None:
    service = Claimant("", "web", "db")
    pod = Claimant("", "shop", "web", "db")
    found = owned(service, pod)
    assert found["db.web"] == service
    assert found["db.web.shop"] == pod


@pytest.mark.parametrize("name", ["localhost", "ip6-localhost", "my-laptop"])
def test_a_service_never_takes_a_name_of_this_machine(name: str) -> None:
    found = owned(Claimant("", "shop", name), scope=Scope(taken=frozenset({"my-laptop"})))
    assert name not in found
    assert f"{name}.shop" in found


@pytest.mark.parametrize("name", ["a b", "a\n127.0.0.1 bank", "_x", "A", "", "a" * 64, "é"])
def test_what_is_no_host_name_is_no_name(name: str) -> None:
    assert owned(Claimant("", "shop", name)) == {}


def test_a_name_that_is_too_long_for_dns_is_left_out() -> None:
    long = Claimant("", "n" * 63, "s" * 63, "p" * 63)
    assert max(map(len, owned(long, scope=Scope(domain="d" * 63)))) < 253


@pytest.mark.parametrize(
    ("context", "label"),
    [
        ("kind-a", "kind-a"),
        ("arn:aws:eks:eu-west-1:1:cluster/Shop", "arn-aws-eks-eu-west-1-1-cluster-shop"),
        ("", ""),
        ("///", ""),
        ("a" * 64, ""),
    ],
)
def test_a_context_becomes_a_label(context: str, label: str) -> None:
    assert context_label(context) == label


def test_a_context_that_cannot_be_a_label_has_no_names_of_its_own() -> None:
    found = owned(WEB._replace(context="/"), scope=Scope(contexts=("/", "kind")))
    assert len(found) == 4


WORDS = st.sampled_from(["web", "db", "svc", "a"])


@given(
    st.sets(st.builds(Claimant, WORDS, WORDS, WORDS, WORDS | st.just(""))),
    st.lists(WORDS, unique=True, max_size=3).map(tuple),
    st.lists(WORDS, unique=True, max_size=3).map(tuple),
    st.randoms(),
)
def test_names_do_not_depend_on_the_order_of_arrival(
    claimants: set[Claimant],
    contexts: tuple[str, ...],
    namespaces: tuple[str, ...],
    random: Random,
) -> None:
    scope = Scope(contexts=contexts, namespaces=namespaces)
    order = sorted(claimants)
    random.shuffle(order)
    assert names_of(order, scope) == names_of(claimants, scope)
    assert list(names_of(order, scope).owners) == sorted(names_of(order, scope).owners)
