"""The PROXY protocol's header, version 2: tells an endpoint whose connection this is.

Source: "The PROXY protocol", versions 1 and 2, section 2.2 (haproxy.org).
"""

import ipaddress
import struct

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_VERSION_2_PROXY = 0x21
_TCP = {4: 0x11, 6: 0x21}


def header(client: str, client_port: int, address: str, port: int) -> bytes:
    """Return the header of a TCP connection from `client` to the frontend `address`:`port`.

    Both addresses are canonical text of one family.
    """
    source, destination = ipaddress.ip_address(client), ipaddress.ip_address(address)
    body = source.packed + destination.packed + struct.pack("!HH", client_port, port)
    kind = _TCP[source.version]
    return _SIGNATURE + struct.pack("!BBH", _VERSION_2_PROXY, kind, len(body)) + body
