"""Carry out the Dockerfile without a container engine: in chroots, on what debootstrap makes.

It knows the instructions that the Dockerfile has, and no others; .dockerignore holds too. What
would be the image is in DIRECTORY/final. It takes root, debootstrap, and a network for the packages
of Debian and PyPI. At the end it prints sizes and times.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUITE = "bookworm"
# What debian:bookworm-slim leaves out of a minimal Debian.
_NOT_SLIM = ("doc", "man", "info", "locale", "lintian")
# Whom this machine trusts: its network may have a proxy with a certificate of its own.
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction of a Dockerfile and its arguments, joined to one line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, rest.strip()


class Stage:
    """A root directory that a stage of the Dockerfile fills."""

    def __init__(self, directory: Path, base: Path) -> None:
        self.directory = directory
        self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        self.workdir = "/"
        self.entrypoint: list[str] = []
        shutil.rmtree(directory, ignore_errors=True)  # of the last time
        subprocess.run(["cp", "-a", str(base), str(directory)], check=True)
        shutil.copy("/etc/resolv.conf", directory / "etc/resolv.conf")
        if _CERTIFICATES.exists():
            shutil.copy(_CERTIFICATES, directory / "tmp/certificates.crt")

    def run(self, command: list[str], **more: str) -> float:
        """Run a command in it; return how long it took, in seconds."""
        pip = {"PIP_CERT": "/tmp/certificates.crt"} if _CERTIFICATES.exists() else {}
        began = time.monotonic()
        inside = ["chroot", str(self.directory), "/usr/bin/env", "-C", self.workdir, *command]
        subprocess.run(inside, env={**pip, **self.environment, **more}, check=True)
        return time.monotonic() - began

    def path(self, place: str) -> Path:
        """Where a path of the image is."""
        return self.directory / os.path.join(self.workdir, place).lstrip("/")


def context(directory: Path) -> Path:
    """What an engine would be sent: the files that .dockerignore lets through."""
    shutil.rmtree(directory, ignore_errors=True)
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (line[1:] for line in lines if line.startswith("!")):
        source, target = ROOT / name, directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source, target, ignore=ignored)
        else:
            shutil.copy(source, target)
    return directory


def build(directory: Path) -> tuple[Path, Stage]:
    """Carry out the Dockerfile; return the base and the last stage."""
    base = directory / "base"
    if not base.exists():
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, str(base)], check=True)
        for name in _NOT_SLIM:
            shutil.rmtree(base / "usr/share" / name, ignore_errors=True)
        for name in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(base / name)
            (base / name).mkdir()
    sent = context(directory / "context")
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    arguments: dict[str, str] = {}
    for word, rest in instructions((ROOT / "Dockerfile").read_text()):
        if word == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif word == "FROM":
            name = rest.partition(" AS ")[2] or "final"
            stage = stages[name] = Stage(directory / name, base)
        else:
            assert stage is not None, f"{word} before FROM"
            _apply(stage, word, _filled(rest, arguments), sent, stages)
    assert stage is not None
    return base, stage


def _filled(text: str, arguments: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: arguments.get(found[1], found[0]), text)


def _apply(stage: Stage, word: str, rest: str, sent: Path, stages: Mapping[str, Stage]) -> None:
    print(f"--- {word} {rest}", flush=True)
    match word:
        case "RUN":
            stage.run(["/bin/sh", "-c", rest], DEBIAN_FRONTEND="noninteractive")
        case "WORKDIR":
            stage.workdir = rest
            stage.path(".").mkdir(parents=True, exist_ok=True)
        case "ENV":
            stage.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        case "COPY":
            _copy(stage, rest.split(), sent, stages)
        case "ENTRYPOINT":
            stage.entrypoint = [part.strip(' "') for part in rest.strip("[]").split(",")]
        case "LABEL" | "CMD":
            pass  # they are about the image, not in it
        case "USER":
            assert rest == "0", rest
        case _:
            raise SystemExit(f"this rehearsal does not know {word}")


def _copy(stage: Stage, words: list[str], sent: Path, stages: Mapping[str, Stage]) -> None:
    source_root = sent
    if words[0].startswith("--from="):
        source_root = stages[words.pop(0).partition("=")[2]].directory
    *sources, target = words
    for name in sources:
        source, place = source_root / name.lstrip("/"), stage.path(target)
        if source.is_dir():  # its content, as COPY has it
            shutil.copytree(source, place, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(source, place / source.name if target.endswith("/") else place)


def _megabytes(directory: Path) -> float:
    done = subprocess.run(["du", "-sk", str(directory)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[0]) / 1000


def main(directory: str) -> None:
    """Build, then try what is there."""
    base, image = build(Path(directory).resolve())
    compilers = [
        name
        for name in ("cc", "gcc", "pip", "pip3")
        if list(image.directory.glob(f"usr/bin/{name}"))
    ]
    assert not compilers, compilers
    image.workdir = "/"
    image.run(["nft", "--version"])
    image.run([*image.entrypoint, "--version"])
    times = [image.run([*image.entrypoint, "--version"]) for _ in range(3)]
    print(f"base {_megabytes(base):.0f} MB, image {_megabytes(image.directory):.0f} MB,")
    print(f"of it pyproxy {_megabytes(image.directory / 'opt/pyproxy'):.0f} MB")
    print(f"pyproxy --version: {min(times):.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
