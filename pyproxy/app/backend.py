"""A small server to stand behind the demo's Services: HTTP over TCP, and an echo over UDP.

Run as `python -m pyproxy.app.backend ADDRESS TCP_PORT UDP_PORT`. It answers with its own address,
writes one line when it listens, and ends when its standard input does, so that it cannot outlive
the demo that started it.
"""

import asyncio
import sys
from typing import cast


class Echo(asyncio.DatagramProtocol):
    """Sends each datagram back with the name in front."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer by."""
        # What it is; but before Python 3.12 its class does not say so.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer."""
        self._transport.sendto(self._name + b" " + data, addr)


async def serve(address: str, tcp_port: int, udp_port: int) -> None:
    """Serve until standard input ends. Raises OSError when an address cannot be bound."""
    body = f"{address}\n".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that went away, or does not speak HTTP
        finally:
            writer.close()

    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(answer, address, tcp_port)
    udp, _ = await loop.create_datagram_endpoint(
        lambda: Echo(address), local_addr=(address, udp_port)
    )
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    udp.close()


def main() -> int:
    """Run as the command line says."""
    address, tcp_port, udp_port = sys.argv[1:4]
    try:
        asyncio.run(serve(address, int(tcp_port), int(udp_port)))
    except OSError as fault:
        sys.stderr.write(f"{fault.strerror or fault}\n")
        return 1
    except KeyboardInterrupt:
        pass  # the demo got the same ctrl-C, and says what there is to say
    return 0


if __name__ == "__main__":
    sys.exit(main())
