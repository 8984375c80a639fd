"""Steering against a fake nft, and the contract that the fake and the real one share."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import msgspec
import pytest

from pyproxy.core.ruleset import UNKNOWN, Guard, Ruleset
from pyproxy.core.ruleset_diff import diff
from pyproxy.core.ruleset_script import base, fresh, layout, remove
from pyproxy.core.transaction import TABLE, Element, Elements, Step, script
from pyproxy.model.addresses import parse_cidr
from pyproxy.model.persistent import PersistentMap, PersistentSet
from pyproxy.model.table import FrontendKey
from pyproxy.steer.nft import Nft, NftError
from pyproxy.steer.reconciler import NftRunner, Steering, SteerSettings
from tests.support.fake_nft import FakeNft, Packet
from tests.support.netns import Host, needs_netns

SETTINGS = SteerSettings()
MARK = SETTINGS.mark
WEB: FrontendKey = ("10.96.0.1", 80, "TCP")
DNS: FrontendKey = ("fd00:96::1", 53, "UDP")
GUARD = Guard((parse_cidr("10.0.0.0/8"), parse_cidr("192.0.2.1/32")), "insiders")
SOME = Ruleset(
    services=PersistentMap({WEB: "steer", DNS: "refuse", ("203.0.113.1", 80, "TCP"): GUARD.chain}),
    guards=PersistentMap({GUARD.chain: GUARD}),
    cluster_ips=PersistentSet({"10.96.0.1", "fd00:96::1"}),
    service_cidrs=frozenset({parse_cidr("10.96.0.0/16"), parse_cidr("fd00:96::/108")}),
    pod_networks=frozenset({parse_cidr("10.244.0.0/24"), parse_cidr("10.244.1.0/25")}),
)
OTHER = Ruleset(
    services=PersistentMap({WEB: "refuse", ("10.96.0.2", 80, "TCP"): "discard"}),
    cluster_ips=PersistentSet({"10.96.0.1", "10.96.0.2"}),
    pod_networks=frozenset({parse_cidr("10.244.0.0/16"), parse_cidr("::/0")}),
)


class FakeRoutes:
    """A Routes that counts. is_there: whether rule and route are."""

    def __init__(self) -> None:
        self.is_there = False

    def ensure(self) -> bool:
        was, self.is_there = self.is_there, True
        return not was

    def remove(self) -> bool:
        was, self.is_there = self.is_there, False
        return was


@pytest.fixture
def nft() -> FakeNft:
    return FakeNft()


@pytest.fixture
def steering(nft: FakeNft) -> Steering:
    return Steering(nft, FakeRoutes(), SETTINGS)


async def services(nft: NftRunner) -> dict[FrontendKey, str]:
    found = await nft.read()
    assert found is not None
    return dict(found.ruleset.services)


async def test_the_first_apply_makes_everything_in_one_transaction(
    nft: FakeNft, steering: Steering
) -> None:
    await steering.start()
    assert nft.taken == []  # what a former run left goes on
    await steering.apply(SOME)
    assert len(nft.taken) == 1
    assert await services(nft) == SOME.services
    assert (steering.transactions, steering.failures, steering.repairs) == (1, 0, 0)


async def test_the_same_again_is_no_transaction(nft: FakeNft, steering: Steering) -> None:
    await steering.apply(SOME)
    await steering.apply(msgspec.structs.replace(SOME))
    assert len(nft.taken) == 1


async def test_what_a_former_run_left_is_changed_only_where_it_differs(nft: FakeNft) -> None:
    await Steering(nft, FakeRoutes(), SETTINGS).apply(SOME)
    second = Steering(nft, FakeRoutes(), SETTINGS)
    await second.start()
    await second.apply(SOME)
    adoption = script(nft.taken[-1])
    assert "delete table" not in adoption
    assert "element" not in adoption
    assert f"flush chain {TABLE} {GUARD.chain}" in adoption  # its content cannot be told
    await second.apply(OTHER)
    assert await services(nft) == OTHER.services


async def test_another_layout_is_replaced(nft: FakeNft) -> None:
    other = msgspec.structs.replace(SETTINGS, mark=MARK << 1)
    await Steering(nft, FakeRoutes(), other).apply(SOME)
    await Steering(nft, FakeRoutes(), SETTINGS).apply(OTHER)
    found = await nft.read()
    assert found is not None
    assert found.layout == layout(MARK)
    assert len(nft.taken) == 2
    assert await services(nft) == OTHER.services


async def test_after_a_failure_the_kernel_is_asked(nft: FakeNft, steering: Steering) -> None:
    await steering.apply(SOME)
    nft.fault = NftError("no")
    with pytest.raises(NftError, match="no"):
        await steering.apply(OTHER)
    assert steering.failures == 1
    await nft.run([f"delete element {TABLE} steer4 {{ 10.96.0.1 . tcp . 80 }}"])
    await steering.apply(OTHER)
    assert await services(nft) == OTHER.services


async def test_a_table_that_cannot_be_put_right_is_made_anew(
    nft: FakeNft, steering: Steering
) -> None:
    await steering.apply(SOME)
    second = Steering(nft, FakeRoutes(), SETTINGS)
    nft.fault = NftError("the chain is another one", already_exists=True)
    await second.apply(OTHER)
    assert "delete table" in script(nft.taken[-1])
    assert await services(nft) == OTHER.services
    third = Steering(nft, FakeRoutes(), SETTINGS)
    nft.fault = NftError("not allowed", not_permitted=True)
    with pytest.raises(NftError, match="not allowed"):
        await third.apply(OTHER)


async def test_check_mends_what_somebody_changed(nft: FakeNft, steering: Steering) -> None:
    await steering.start()
    assert not await steering.check()
    await steering.apply(SOME)
    assert not await steering.check()
    await steering.apply(OTHER)  # the guard is gone, rightly
    assert not await steering.check()
    await steering.apply(SOME)
    assert not await steering.check()
    for damage in (
        remove().steps,
        [f"delete element {TABLE} steer4 {{ 10.96.0.1 . tcp . 80 }}"],
        [f"flush chain {TABLE} {GUARD.chain}"],
        [f"flush chain {TABLE} output"],
    ):
        await nft.run(damage)
        assert await steering.check()
        assert await services(nft) == SOME.services
        assert not await steering.check()
    assert steering.repairs == 4


async def test_check_mends_the_route(nft: FakeNft) -> None:
    routes = FakeRoutes()
    steering = Steering(nft, routes, SETTINGS)
    await steering.start()
    routes.remove()
    assert await steering.check()
    assert routes.is_there


async def test_check_after_a_failed_apply_leads_to_what_was_wanted(
    nft: FakeNft, steering: Steering
) -> None:
    await steering.apply(SOME)
    nft.fault = NftError("no")
    with pytest.raises(NftError):
        await steering.apply(OTHER)
    assert await steering.check()
    assert await services(nft) == OTHER.services


async def test_cleanup_removes_everything_and_may_be_repeated(nft: FakeNft) -> None:
    routes = FakeRoutes()
    steering = Steering(nft, routes, SETTINGS)
    await steering.start()
    await steering.apply(SOME)
    await steering.cleanup()
    await steering.cleanup()
    assert nft.table is None
    assert not routes.is_there
    assert not await steering.check() or not nft.table  # it does not bring the table back


# The contract: what holds for the fake holds for nft in a namespace.


@pytest.fixture(params=["fake", pytest.param("nft", marks=needs_netns)])
def runner(request: pytest.FixtureRequest) -> Iterator[NftRunner]:
    if request.param == "fake":
        yield FakeNft()
        return
    host = Host("nft")
    try:
        with host.entered(), contextlib.closing(Nft()) as made:
            yield made
    finally:
        host.close()


async def test_contract_what_is_written_is_read(runner: NftRunner) -> None:
    await runner.check_version()
    assert await runner.read() is None
    known = Ruleset()
    await runner.run(fresh(MARK).steps)
    for wanted in (SOME, OTHER, SOME, Ruleset()):
        await runner.run(diff(known, wanted).steps)
        known = wanted
        found = await runner.read()
        assert found is not None
        assert found.layout == layout(MARK)
        unknown = PersistentMap(dict.fromkeys(wanted.guards, UNKNOWN))
        assert found.ruleset == msgspec.structs.replace(wanted, guards=unknown)


async def test_contract_the_fixed_part_can_be_written_again(runner: NftRunner) -> None:
    await runner.run((fresh(MARK) + diff(Ruleset(), SOME)).steps)
    before = await runner.read()
    await runner.run(base(MARK).steps)
    assert await runner.read() == before
    await runner.run([f"flush chain {TABLE} prerouting"])
    after = await runner.read()
    assert before is not None
    assert after is not None
    assert {name for name in before.rules if before.rules[name] != after.rules[name]} == {
        "prerouting"
    }
    await runner.run(fresh(MARK).steps)
    await runner.run(remove().steps)
    await runner.run(remove().steps)
    assert await runner.read() is None


THERE = Element(("203.0.113.1", "tcp", 80), "discard")  # and leads elsewhere
GONE = Element(("10.1.1.1", "tcp", 1))


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (f"add rule {TABLE} nothing accept", "not_found"),
        (f"delete element {TABLE} steer4 {{ {GONE} }}", "not_found"),
        (f"add element {TABLE} verdicts4 {{ {THERE} }}", "already_exists"),
        ((Elements("delete", "steer4", (GONE,)),), "not_found"),
        ((Elements("delete", "steer5", (GONE,)),), "not_found"),
        ((Elements("add", "verdicts4", (THERE,)),), "already_exists"),
    ],
)
async def test_contract_a_transaction_is_taken_whole_or_not_at_all(
    runner: NftRunner, step: Step, kind: str
) -> None:
    await runner.run((fresh(MARK) + diff(Ruleset(), SOME)).steps)
    before = await runner.read()
    good = (Elements("add", "steer4", (Element(("10.96.0.77", "tcp", 80)),)),)
    for steps in ([good, step], [step, good]):
        with pytest.raises(NftError) as caught:
            await runner.run(steps)
        assert getattr(caught.value, kind)
        assert await runner.read() == before


async def test_contract_what_is_there_may_come_again(runner: NftRunner) -> None:
    await runner.run((fresh(MARK) + diff(Ruleset(), SOME)).steps)
    before = await runner.read()
    again = Elements("add", "steer4", (Element(("10.96.0.1", "tcp", 80)),))
    await runner.run([(again,)])
    await runner.run([str(again)])
    assert await runner.read() == before


async def test_a_chain_in_use_stays(runner: NftRunner) -> None:
    await runner.run((fresh(MARK) + diff(Ruleset(), SOME)).steps)
    name = GUARD.chain
    with pytest.raises(NftError):
        await runner.run([f"flush chain {TABLE} {name}\ndelete chain {TABLE} {name}"])


def test_the_fake_traces_established_packets() -> None:
    nft = FakeNft()
    asyncio.run(nft.run((fresh(MARK) + diff(Ruleset(), SOME)).steps))
    web = {"source": "10.244.0.9", "destination": "10.96.0.1", "is_new": False}
    trace: Callable[..., str] = lambda **more: nft.trace(Packet(**{**web, **more}))  # noqa: E731
    assert trace() == "accept"  # of somebody else, as far as the kernel knows
    assert trace(socket="transparent") == "steer"
    assert trace(socket="wildcard") == "accept"
    assert trace(from_node=True) == "steer"
    assert trace(from_node=True, destination="203.0.113.9") == "accept"
    assert trace(protocol="UDP", port=99) == "refuse"
    assert trace(protocol="UDP", port=99, socket="transparent") == "steer"
    asyncio.run(nft.run(diff(SOME, Ruleset()).steps))
    assert trace(from_node=True) == "steer"  # retired
