"""The backends, and the proxies in front of them: each a process with an address of its own.

All listen on the same ports, so that a client differs only in the address that it asks.
"""

import contextlib
import json
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.builders import Json, make_port, make_service, make_slice

BACKEND = "127.77.0.1"
HTTP, BULK, ECHO = 8080, 5201, 5300
MANY_SERVICES = 10_000
# What a process may have. 10,000 connections take two each, and some to spare.
DESCRIPTORS = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 32_768)

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")  # Debian's

_START_S = 90.0  # 10,000 Services of YAML take about 10 s
_STOP_S = 10.0
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"


@dataclass(frozen=True)
class Target:
    """Whom a client asks. pid: whose CPU and memory count; None: nobody stands between."""

    name: str
    address: str
    pid: int | None = None


class Setup:
    """Starts things and ends them again, whatever happens: used in a with statement."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Setup":
        self._directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def backends(self) -> Target:
        """HTTP, bulk data and an echo over UDP."""
        if (nginx := find("nginx")) is not None:
            config = self._config("backend", _BACKEND)
            wait_for(BACKEND, HTTP, self._start("backend", nginx_command(nginx, config)))
        if (iperf3 := find("iperf3")) is not None:
            self._start("iperf3", [iperf3, "--server", "--bind", BACKEND, "--port", str(BULK)])
        self._start("echo", [sys.executable, "-m", "tests.bench.relay.udp", BACKEND, str(ECHO)])
        return Target("direct", BACKEND)

    def pyproxy(self, workers: int, services: int = 1) -> Target:
        """One `pyproxy run` on manifests; the address is that of the last Service."""
        name = "pyproxy" if services == 1 else f"pyproxy, {services:,} Services"
        addresses = [f"127.78.{n >> 8}.{n & 255}" for n in range(1, services)]
        addresses.append("127.77.0.2" if services == 1 else "127.77.0.3")
        documents = [item for address in addresses for item in manifest(address)]
        # JSON is YAML too, and quicker to write.
        text = "\n---\n".join(map(json.dumps, documents))
        path = self._config(f"pyproxy-{services}.yaml", text)
        command = [sys.executable, "-m", "pyproxy", "run", "--manifests", str(path)]
        command += ["--steer", "none", "--workers", str(workers), "--log-level", "warning"]
        command += ["--control-socket", "", "--metrics-bind-address", "127.0.0.1:0"]
        return self._target(
            name, addresses[-1], [*command, "--healthz-bind-address", "127.0.0.1:0"]
        )

    def haproxy(self, threads: int) -> Target | None:
        """HAProxy in TCP mode."""
        if (program := find("haproxy")) is None:
            return None
        address = "127.77.0.4"
        path = self._config("haproxy.cfg", _HAPROXY.format(threads=threads, address=address))
        return self._target("HAProxy", address, [program, "-db", "-f", str(path)])

    def nginx(self, workers: int) -> Target | None:
        """The stream module of nginx."""
        if (program := find("nginx")) is None or not STREAM_MODULE.exists():
            return None
        address = "127.77.0.5"
        text = _NGINX.format(workers=workers, address=address)
        return self._target("nginx", address, nginx_command(program, self._config("stream", text)))

    def _target(self, name: str, address: str, command: list[str]) -> Target:
        process = self._start(name, command)
        wait_for(address, HTTP, process)
        return Target(name, address, process.pid)

    def _config(self, name: str, text: str) -> Path:
        path = self._directory / name
        path.write_text(text.replace("DIRECTORY", str(self._directory)), encoding="utf-8")
        return path

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self._directory / f"{name}.log").open("wb"))
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self._stack.callback(stop, process)
        return process


def find(program: str) -> str | None:
    """Where a program is; the proxies are not on everyone's path."""
    return shutil.which(program) or shutil.which(program, path=_PATH)


def version(program: str, flag: str = "-v") -> str:
    """The first line that a program says of its version."""
    path = find(program)
    if path is None:
        return "not installed"
    done = subprocess.run([path, flag], capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).splitlines()[0]


def wait_for(address: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the process accepts connections. Raises TimeoutError."""
    deadline_s = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1.0):
            return
        time.sleep(0.05)
    command = " ".join(map(str, process.args)) if isinstance(process.args, list) else ""
    raise TimeoutError(f"nobody listens on {address}:{port}; started for it was: {command}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that we have started."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def manifest(address: str) -> Iterator[Json]:
    """A Service and its EndpointSlice."""
    name = "s" + address.replace(".", "-")
    tcp_ports = [make_port(HTTP), make_port(BULK, "bulk")]
    ports = (
        [*tcp_ports, make_port(ECHO, "echo", "UDP")]
        if address.startswith("127.77.")
        else [tcp_ports[0]]
    )
    yield make_service(name, cluster_ip=address, ports=ports)
    yield make_slice(
        BACKEND,
        service=name,
        ports=[{key: port[key] for key in ("name", "protocol", "port")} for port in ports],
    )


def nginx_command(program: str, config: Path) -> list[str]:
    """Run nginx in the foreground, with nothing of the system's configuration."""
    return [program, "-p", str(config.parent), "-c", str(config), "-e", "stderr"]


# So many requests on a connection and so long between them that the backend ends none.
_BACKEND = f"""\
daemon off;
worker_processes 2;
worker_rlimit_nofile {DESCRIPTORS};
pid DIRECTORY/backend.pid;
events {{ worker_connections {DESCRIPTORS - 100}; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_header_timeout 1h;
  client_body_temp_path DIRECTORY/body;
  proxy_temp_path DIRECTORY/proxy;
  fastcgi_temp_path DIRECTORY/fastcgi;
  uwsgi_temp_path DIRECTORY/uwsgi;
  scgi_temp_path DIRECTORY/scgi;
  server {{
    listen {BACKEND}:{HTTP} backlog=4096;
    location / {{ return 200 "{"x" * 128}"; }}
  }}
}}
"""

_HAPROXY = f"""\
global
  nbthread {{threads}}
  maxconn {DESCRIPTORS // 2 - 100}
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen http
  bind {{address}}:{HTTP}
  server one {BACKEND}:{HTTP}
listen bulk
  bind {{address}}:{BULK}
  server one {BACKEND}:{BULK}
"""

_NGINX = f"""\
load_module {STREAM_MODULE};
daemon off;
worker_processes {{workers}};
worker_rlimit_nofile {DESCRIPTORS};
pid DIRECTORY/stream.pid;
events {{{{ worker_connections {DESCRIPTORS - 100}; }}}}
stream {{{{
  proxy_timeout 1h;
  server {{{{ listen {{address}}:{HTTP} backlog=4096; proxy_pass {BACKEND}:{HTTP}; }}}}
  server {{{{ listen {{address}}:{BULK}; proxy_pass {BACKEND}:{BULK}; }}}}
  server {{{{ listen {{address}}:{ECHO} udp reuseport; proxy_pass {BACKEND}:{ECHO}; }}}}
}}}}
"""
