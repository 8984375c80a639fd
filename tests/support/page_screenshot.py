"""`python -m tests.support.page_screenshot`: the picture of the page for the README.

With a directory, the page in many states instead, to look at: sizes, dark and light, and from no
Service to thousands.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support import agents, page_cluster
from tests.support.browser import Browser, browser
from tests.support.control import ROOT

README = ROOT / "docs" / "images" / "page.png"
SIZES = {"wide": (1440, 900), "small": (1024, 700), "phone": (390, 844)}
_WARM_UP_S = 75


@contextlib.contextmanager
def page(count: int) -> Iterator[str]:
    """The URL of an agent's page with so many Services, under load."""
    services = page_cluster.shop(count)
    with tempfile.TemporaryDirectory() as directory:
        documents = [document for made in services for document in made.documents()]
        agents.write(Path(directory) / "shop.yaml", *documents)
        with agents.process(
            *("--manifests", directory, "--ui-bind-address", "127.0.0.1:0", "--workers", "2"),
            *("--hostname-override", "worker-1"),
        ) as running:
            url = running.url("page")
            if services:
                running.wait_for(r"listening on \d+ addresses")
            with page_cluster.load(services):
                yield url


def take(window: Browser, path: Path) -> None:
    """One screenshot."""
    time.sleep(1.5)  # for transitions
    window.driver.save_screenshot(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--counts", default="0,5,60,5000")
    parser.add_argument("--warm-up", type=float, default=_WARM_UP_S)
    arguments = parser.parse_args()
    with browser() as window:
        if arguments.directory is None:
            for_readme(window, arguments.warm_up)
        else:
            for count in map(int, arguments.counts.split(",")):
                in_all_states(window, count, arguments.directory, arguments.warm_up)


def for_readme(window: Browser, warm_up_s: float) -> None:
    README.parent.mkdir(exist_ok=True)
    window.prefer(prefers_color_scheme="light")
    window.resize(1280, 720)
    with page(36) as url:
        window.open(url)
        time.sleep(warm_up_s)
        take(window, README)


def in_all_states(window: Browser, count: int, directory: Path, warm_up_s: float) -> None:
    with page(count) as url:
        window.resize(1440, 900)
        window.open(url)
        time.sleep(warm_up_s if count else 2)
        for size, (width, height) in SIZES.items():
            window.resize(width, height)
            for scheme in ("light", "dark"):
                window.prefer(prefers_color_scheme=scheme)
                take(window, directory / f"{count}-{size}-{scheme}.png")
        if not count:
            return
        for size, scheme in (("wide", "light"), ("small", "dark"), ("phone", "light")):
            window.resize(*SIZES[size])
            window.prefer(prefers_color_scheme=scheme)
            for name in ("payments/checkout", "shop/prices", "payments/stock", "platform/ledger"):
                if window.run("return pyproxy.model.byKey.has(arguments[0])", name):
                    window.run("location.hash = '#/' + arguments[0]", name)
                    take(window, directory / f"{count}-{size}-{name.replace('/', '-')}.png")
            window.run("location.hash = ''")


if __name__ == "__main__":
    main()
