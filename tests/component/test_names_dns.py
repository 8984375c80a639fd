"""The DNS server on loopback: the wire format, both transports, and whoever sends what it likes."""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.opcode
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rrset
import dns.update
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.core.dns_zone import Zone, zone_of
from pyproxy.core.local_names import Scope, names_of
from pyproxy.core.local_service import Claimant, LocalService
from pyproxy.core.loopback import LocalPort, Placement
from pyproxy.errors import PyproxyError
from pyproxy.names.dns import DnsServer
from pyproxy.names.dns_message import UDP_BYTES, respond
from tests.support.builders import service

FULL = "web.default.svc.cluster.local"
PATIENCE_S = 5.0

# Of our own: a port that is free for TCP here is so for UDP too.
ADDRESS = "127.53.53.53"


def zone(pods: int = 0, address: str = "127.5.6.7") -> Zone:
    """Service web; and a headless Service with so many pods."""
    web = Claimant("", "default", "web")
    db = Claimant("", "default", "db")
    placements = {web: Placement(web, address, (LocalPort("http", "TCP", 80, 8080),))}
    for number in range(1, pods + 1):
        pod = db._replace(pod=f"db-{number}")
        placements[pod] = Placement(pod, f"127.9.0.{number}", (LocalPort("sql", "TCP", 1, 1),))
    services = (
        LocalService(service=service()),
        LocalService(service=service(name="db", cluster_ip="None")),
        LocalService(service=service(name="x", type="ExternalName", externalName="example.com")),
    )
    names = names_of([*(local.claimant for local in services), *placements], Scope())
    return zone_of(services, placements, names, "cluster.local")


def asked(message: dns.message.Message | bytes, *, pods: int = 0, is_tcp: bool = False) -> Any:
    wire = message if isinstance(message, bytes) else message.to_wire()
    response = respond(wire, zone(pods), is_tcp=is_tcp)
    assert response is not None
    return dns.message.from_wire(response)


def texts(sections: list[dns.rrset.RRset]) -> list[str]:
    return sorted(line for rrset in sections for line in rrset.to_text().splitlines())


def test_an_answer_has_the_question_the_id_and_a_short_ttl() -> None:
    query = dns.message.make_query(FULL, "A")
    response = asked(query)
    assert query.is_response(response)
    assert response.rcode() == dns.rcode.NOERROR
    assert response.flags & dns.flags.AA
    assert response.flags & dns.flags.RD
    assert texts(response.answer) == [f"{FULL}. 5 IN A 127.5.6.7"]


def test_case_means_nothing_and_is_given_back() -> None:
    mixed = "wEb.DeFault.svc.CLUSTER.local"
    response = asked(dns.message.make_query(mixed, "A"))
    assert texts(response.answer) == [f"{mixed}. 5 IN A 127.5.6.7"]


def test_srv_comes_with_the_address() -> None:
    response = asked(dns.message.make_query(f"_http._tcp.{FULL}", "SRV"))
    assert texts(response.answer) == [f"_http._tcp.{FULL}. 5 IN SRV 0 100 8080 {FULL}."]
    assert texts(response.additional) == [f"{FULL}. 5 IN A 127.5.6.7"]


def test_an_alias_a_pointer_and_the_zone_itself() -> None:
    alias = asked(dns.message.make_query("x.default.svc.cluster.local", "AAAA"))
    assert texts(alias.answer) == ["x.default.svc.cluster.local. 5 IN CNAME example.com."]
    pointer = asked(dns.message.make_query("7.6.5.127.in-addr.arpa", "PTR"))
    assert texts(pointer.answer) == [f"7.6.5.127.in-addr.arpa. 5 IN PTR {FULL}."]
    assert len(asked(dns.message.make_query("cluster.local", "SOA")).answer) == 1


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "authority"),
    [
        (FULL, "AAAA", "NOERROR", 1),
        ("nope.default.svc.cluster.local", "A", "NXDOMAIN", 1),
        ("nope.svc", "A", "NXDOMAIN", 0),
        ("example.com", "A", "REFUSED", 0),
        (".", "NS", "REFUSED", 0),
        ("cluster.local", "AXFR", "REFUSED", 0),
        ("cluster.local", "TYPE65280", "NOERROR", 1),
    ],
)
def test_what_is_not_there_is_told_apart_from_what_is_not_ours(
    name: str, kind: str, rcode: str, authority: int
) -> None:
    response = asked(dns.message.make_query(name, kind))
    assert dns.rcode.to_text(response.rcode()) == rcode
    assert response.answer == []
    assert len(response.authority) == authority


def test_only_the_internet_class_is_ours() -> None:
    query = dns.message.make_query(FULL, "A", rdclass=dns.rdataclass.CH)
    assert asked(query).rcode() == dns.rcode.REFUSED


def test_edns_is_answered_with_our_size_and_only_to_those_who_speak_it() -> None:
    response = asked(dns.message.make_query(FULL, "A", use_edns=0, payload=4096))
    assert (response.edns, response.payload) == (0, UDP_BYTES)
    assert asked(dns.message.make_query(FULL, "A", use_edns=-1)).edns == -1


def test_an_edns_version_of_the_future_is_told_so() -> None:
    response = asked(dns.message.make_query(FULL, "A", use_edns=1))
    assert response.rcode() == dns.rcode.BADVERS
    assert response.edns == 0


@pytest.mark.parametrize(
    ("edns", "payload", "limit"), [(-1, 0, 512), (0, 100, 512), (0, 1000, 1000), (0, 9000, 1232)]
)
def test_a_response_that_is_too_long_for_udp_is_cut_and_says_so(
    edns: int, payload: int, limit: int
) -> None:
    query = dns.message.make_query("db.default", "A", use_edns=edns, payload=payload)
    wire = respond(query.to_wire(), zone(200))
    assert wire is not None
    assert len(wire) <= limit
    assert dns.message.from_wire(wire).flags & dns.flags.TC
    whole = asked(query, pods=200, is_tcp=True)
    assert not whole.flags & dns.flags.TC
    assert len(whole.answer[0]) == 200


def test_addresses_that_do_not_fit_beside_the_answer_are_left_out_without_a_word() -> None:
    query = dns.message.make_query("_sql._tcp.db.default", "SRV", use_edns=0, payload=1232)
    response = asked(query, pods=17)
    assert len(response.answer[0]) == 17
    assert len(response.additional) < 17
    assert not response.flags & dns.flags.TC


@pytest.mark.parametrize(
    ("wire", "rcode"),
    [
        (b"\0\1\1\0\0\1\0\0\0\0\0\0", "FORMERR"),  # says one question, has none
        (b"\0\1\1\0\0\0\0\0\0\0\0\0", "FORMERR"),
        (b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", "FORMERR"),  # a name that points at itself
        (b"\0\1\1\0\0\2\0\0\0\0\0\0\0\0\1\0\1\0\0\1\0\1", "FORMERR"),  # two questions
        (dns.update.UpdateMessage("cluster.local", id=1).to_wire(), "NOTIMP"),
    ],
)
def test_what_is_no_question_gets_a_code_and_the_id(wire: bytes, rcode: str) -> None:
    response = respond(wire, zone())
    assert response is not None
    assert response[:2] == wire[:2]
    assert len(response) == 12
    assert dns.rcode.to_text(dns.rcode.Rcode(response[3] & 0xF)) == rcode


@pytest.mark.parametrize("wire", [b"", b"\0" * 11, b"\0\1\x81\0" + bytes(8)])
def test_what_is_no_message_or_an_answer_is_ignored(wire: bytes) -> None:
    assert respond(wire, zone()) is None


QUERY = dns.message.make_query(f"_http._tcp.{FULL}", "SRV", use_edns=0).to_wire()


@given(
    st.binary(max_size=80)
    | st.tuples(st.integers(0, len(QUERY) - 1), st.binary(max_size=4)).map(
        lambda cut: QUERY[: cut[0]] + cut[1] + QUERY[cut[0] + len(cut[1]) :]
    )
)
def test_any_bytes_are_answered_or_ignored(wire: bytes) -> None:
    response = respond(wire, zone())
    assert response is None or response[:2] == wire[:2]


class Broken(Mapping[str, Claimant]):
    """Names that cannot be looked up."""

    def __getitem__(self, key: str) -> Claimant:
        raise RuntimeError(key)

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0

    def get(self, key: str, default: Any = None) -> Any:
        return self[key]


def test_a_fault_of_ours_is_a_code_for_the_client_and_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire = respond(QUERY, Zone(owners=Broken()))
    assert wire is not None
    assert wire[3] & 0xF == dns.rcode.SERVFAIL
    assert "a question cannot be answered" in caplog.text


@contextlib.asynccontextmanager
async def serving(
    address: str = ADDRESS, port: int = 0, pods: int = 200, **more: Any
) -> AsyncIterator[tuple[DnsServer, int]]:
    server = DnsServer(zone(pods), **more)
    bound = await server.start(address, port)
    try:
        yield server, bound
    finally:
        await server.close()


async def ask(name: str, port: int, *, is_tcp: bool = False) -> dns.message.Message:
    query = dns.query.tcp if is_tcp else dns.query.udp
    message = dns.message.make_query(name, "A")
    return await asyncio.to_thread(query, message, ADDRESS, PATIENCE_S, port)


async def test_it_answers_by_udp_and_by_tcp_from_the_zone_of_the_moment() -> None:
    async with serving() as (server, port):
        for is_tcp in (False, True):
            response = await ask(FULL, port, is_tcp=is_tcp)
            assert texts(response.answer) == [f"{FULL}. 5 IN A 127.5.6.7"]
        assert (await ask("db.default", port)).flags & dns.flags.TC
        assert len((await ask("db.default", port, is_tcp=True)).answer[0]) == 200
        server.publish(zone(address="127.1.1.1"))
        assert texts((await ask(FULL, port)).answer) == [f"{FULL}. 5 IN A 127.1.1.1"]


async def test_rubbish_on_udp_does_not_stop_it() -> None:
    async with serving() as (_, port):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as rubbish:
            for data in (b"", b"x", os.urandom(400), b"\0" * 12):
                rubbish.sendto(data, (ADDRESS, port))
        assert (await ask(FULL, port)).answer


async def test_many_questions_may_come_on_one_connection_in_any_pieces() -> None:
    async with serving() as (_, port), asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(ADDRESS, port)
        framed = struct.pack("!H", len(QUERY)) + QUERY
        writer.write(framed + framed + framed[:5])
        await asyncio.sleep(0.05)
        writer.write(framed[5:])
        for _ in range(3):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            assert dns.message.from_wire(await reader.readexactly(length)).answer
        writer.close()
        await writer.wait_closed()


async def ends(reader: asyncio.StreamReader) -> bool:
    """Whether the server ends the connection, within our patience."""
    async with asyncio.timeout(PATIENCE_S):
        with contextlib.suppress(ConnectionResetError):
            return await reader.read() == b""
        return True


@pytest.mark.parametrize("data", [b"\0\0", b"\0\5hello", b"\0\x0c\0\1\x81\0" + bytes(8)])
async def test_what_deserves_no_answer_ends_the_connection(data: bytes) -> None:
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection(ADDRESS, port)
        writer.write(data)
        assert await ends(reader)
        writer.close()


async def test_who_is_idle_or_too_slow_is_dropped() -> None:
    async with serving(tcp_idle_s=0.1) as (_, port):
        reader, writer = await asyncio.open_connection(ADDRESS, port)
        writer.write(b"\0")
        assert await ends(reader)
        writer.close()


async def test_who_asks_and_does_not_read_is_dropped() -> None:
    query = dns.message.make_query("db.default", "A").to_wire()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        async with serving() as (_, port), asyncio.timeout(4 * PATIENCE_S):
            await asyncio.get_running_loop().sock_connect(client, (ADDRESS, port))
            with pytest.raises(ConnectionError):
                await flood(client, struct.pack("!H", len(query)) + query)
            assert (await ask(FULL, port)).answer


async def flood(client: socket.socket, data: bytes) -> None:
    while True:
        await asyncio.get_running_loop().sock_sendall(client, data)
        await asyncio.sleep(0)


async def test_more_clients_than_there_are_places_are_turned_away_and_a_place_comes_back() -> None:
    async with serving(max_tcp_clients=1) as (_, port):
        _, first = await asyncio.open_connection(ADDRESS, port)
        await asyncio.sleep(0.05)
        reader, second = await asyncio.open_connection(ADDRESS, port)
        assert await ends(reader)
        second.close()
        first.close()
        await first.wait_closed()
        await asyncio.sleep(0.05)
        assert (await ask(FULL, port, is_tcp=True)).answer


async def test_closing_ends_connections_and_may_be_done_twice() -> None:
    server = DnsServer(zone())
    port = await server.start(ADDRESS, 0)
    reader, writer = await asyncio.open_connection(ADDRESS, port)
    await asyncio.sleep(0.05)
    await server.close()
    await server.close()
    assert await ends(reader)
    writer.close()


async def test_an_address_that_cannot_be_bound_is_one_line_with_what_to_do() -> None:
    async with serving() as (_, port):
        with pytest.raises(PyproxyError) as caught:
            await DnsServer(zone()).start(ADDRESS, port)
    assert str(caught.value).startswith(f"DNS cannot listen on {ADDRESS}:{port}: ")
    assert str(caught.value).endswith("; choose another port, for example --dns 127.0.0.1:5353")


async def test_a_port_that_is_free_for_tcp_only_is_given_back() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((ADDRESS, 0))
        port = taken.getsockname()[1]
        with pytest.raises(PyproxyError):
            await DnsServer(zone()).start(ADDRESS, port)
    async with serving(port=port):
        pass


RESOLVE = """
import socket, sys
for name in sys.argv[1:]:
    print(sorted({a[4][0] for a in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)}))
"""


async def test_the_c_librarys_resolver_takes_our_answers(tmp_path: Path) -> None:
    """As root only: a resolver asks at port 53, and resolv.conf is another one in a namespace."""
    if os.geteuid() != 0:
        pytest.skip("needs root for port 53 and a mount namespace")
    conf = tmp_path / "resolv.conf"
    address = "127.153.53.153"
    conf.write_text(f"nameserver {address}\noptions timeout:2 attempts:1\n")
    script = f'mount --bind "{conf}" /etc/resolv.conf; exec "$0" "$@"'
    names = ["web.default.svc", FULL, "db-1.db.default", "db.default"]
    async with serving(address, 53, pods=60):
        done = await asyncio.to_thread(
            subprocess.run,
            ["unshare", "--mount", "sh", "-euc", script, sys.executable, "-c", RESOLVE, *names],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    if done.stderr.startswith("unshare:"):
        pytest.skip("this kernel or sandbox makes no mount namespaces")
    assert done.returncode == 0, done.stderr
    first, second, pod, all_pods = done.stdout.splitlines()
    assert first == second == "['127.5.6.7']"
    assert pod == "['127.9.0.1']"
    assert all_pods.count("127.9.0.") == 60  # too long for UDP without EDNS: it came by TCP
