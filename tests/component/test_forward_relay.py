"""Bytes through the forwarder: both ways, half-closed, reset, slowly and in bulk."""

from tests.support.backends import (
    answer_at_end,
    ask,
    backend_of,
    frontend_of,
    new_address,
    rig,
    tcp_backend,
)


async def test_a_request_ended_by_half_close_gets_its_whole_answer() -> None:
    vip = new_address()
    async with tcp_backend(new_address(), answer_at_end) as endpoint, rig() as it:
        it.serve(frontend_of(vip, backend_of([endpoint])))
        assert await ask(vip, b"0123456789") == b"9876543210"
        await it.all_closed()
        counters = it.counters()
        assert counters.closed == {"finished": 1}
        assert (counters.bytes_to_endpoint, counters.bytes_to_client) == (10, 10)
