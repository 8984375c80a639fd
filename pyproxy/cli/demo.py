"""`pyproxy demo`: see it work in a minute, with no cluster and no root."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from pyproxy.app.demo import Progress, Service

ONCE_ROUNDS = 60
_PLAIN_EVERY = 20  # rounds: one line a second


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "demo",
        help="two Services, three backends, one of them killed: on this machine, without a cluster",
        description=__doc__,
        allow_abbrev=False,
    )
    command.add_argument(
        "--once", action="store_true", help="one round, a summary, and exit 1 if a request failed"
    )
    command.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    command.set_defaults(main=main)


def main(arguments: argparse.Namespace) -> int:
    """Run the demo; return 0, or 1 when a request failed."""
    import asyncio

    from pyproxy.app import logs
    from pyproxy.app.demo import Demo
    from pyproxy.app.loops import loop_factory
    from pyproxy.app.stop import Stop

    logs.set_up("error", "text")
    print(_introduction())

    async def run(view: "Callable[[Progress], None]") -> "Progress":
        stop = Stop()
        with stop.on_signals():
            return await Demo(view).run(stop, ONCE_ROUNDS if arguments.once else None)

    with asyncio.Runner(loop_factory=loop_factory(arguments.loop)) as runner:
        if sys.stdout.isatty():
            progress = _run_live(lambda view: runner.run(run(view)))
        else:
            progress = runner.run(run(_PlainView()))
    print(_summary(progress))
    return 1 if progress.failed else 0


def _introduction() -> str:
    from pyproxy.app.demo import ECHO, NODE_PORT, VIPS, WEB, examples

    web, echo = (f"{address}:{port}" for address, port in (VIPS[WEB], VIPS[ECHO]))
    node_port = ":".join(map(str, NODE_PORT))
    return (
        f"pyproxy serves the Services in {examples()}:\n"
        f"  demo/web   TCP  ClusterIP {web}   node port {node_port}\n"
        f"  demo/echo  UDP  ClusterIP {echo}\n"
        "each with three endpoints. Try it in another terminal:\n"
        f"  curl http://{web}/\n"
        f"  curl http://{node_port}/\n"
        f"  echo hello | nc -u -w1 {echo.replace(':', ' ')}\n"
    )


def _summary(progress: "Progress") -> str:
    lines = []
    for name, service in progress.services.items():
        counts = ", ".join(f"{at} {service.answers[at]}" for at in sorted(service.answers))
        lines.append(
            f"{name.namespace}/{name.name}: {service.answers.total()} answered ({counts}),"
            f" {service.failed} failed"
        )
    lines.append(f"attempts that pyproxy repeated at another endpoint: {progress.retried}")
    return "\n".join([*lines, _verdict(progress)])


def _verdict(progress: "Progress") -> str:
    match progress.failed:
        case 0:
            return "no request failed"
        case 1:
            return "1 request FAILED"
        case failed:
            return f"{failed} requests FAILED"


class _PlainView:
    """A line a second, and one for each event."""

    def __init__(self) -> None:
        self._told = ""
        self._page = ""

    def __call__(self, progress: "Progress") -> None:
        if progress.page != self._page:
            self._page = progress.page
            print(f"-- the status page: {self._page}", flush=True)
        if progress.events and progress.events[-1] != self._told:
            self._told = progress.events[-1]
            print(f"-- {self._told}", flush=True)
        if progress.rounds % _PLAIN_EVERY == 0:
            parts = [
                f"{name.name}: {service.answers.total()} answered, {service.failed} failed"
                for name, service in progress.services.items()
            ]
            print(f"{'; '.join(parts)}; {progress.retried} repeated elsewhere", flush=True)


def _run_live(run: "Callable[[Callable[[Progress], None]], Progress]") -> "Progress":
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, refresh_per_second=8, transient=False) as live:
        return run(lambda progress: live.update(_picture(progress)))


def _picture(progress: "Progress") -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title="answers by endpoint", title_justify="left", title_style="bold")
    table.add_column("endpoint")
    table.add_column("backend")
    for name in progress.services:
        table.add_column(f"{name.namespace}/{name.name}", min_width=28)
    for address, is_running in progress.running.items():
        state = Text("running", "green") if is_running else Text("killed", "bold red")
        bars = [_bar(service, address) for service in progress.services.values()]
        table.add_row(address, state, *bars)
    failed = Text(_verdict(progress), "red" if progress.failed else "green")
    note = Text(f"{progress.retried} attempts repeated at another endpoint; ctrl-C stops", "dim")
    page = Text(f"the status page: {progress.page}")
    events = [Text(f"  {event}", "yellow") for event in progress.events]
    return Group(table, failed, note, page, *events)


def _bar(service: "Service", address: str) -> str:
    most = max(service.answers.values(), default=0) or 1
    count = service.answers[address]
    return f"{count:6} {'█' * round(20 * count / most)}"
