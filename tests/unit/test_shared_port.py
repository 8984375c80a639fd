"""Counting who listens on a port, in the kernel's own table."""

from pyproxy.ops.shared_port import count

# /proc/net/tcp with two listeners on 10256, one on 8080, and connections of port 10256.
TABLE = """\
   0: 00000000:2810 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0
   2: 00000000:2810 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3 1 0
   3: 0100007F:2810 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0
   4: 0100007F:2810 0100007F:9C42 06 00000000:00000000 03:00000D1A 00000000     0        0 0 3 0
"""


def test_only_listeners_of_the_port_count() -> None:
    lines = TABLE.splitlines()
    assert count(lines, 10256) == 2
    assert count(lines, 8080) == 1
    assert count(lines, 80) == 0
