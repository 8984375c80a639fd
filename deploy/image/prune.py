"""Leave out of an installation what pyproxy never loads of the package kubernetes: most of it.

pyproxy takes kubeconfigs and the identity of a pod from it, and asks the API server by itself. The
package's generated clients and models, one module for each kind of object, are loaded by their
name only when somebody asks for them (its PEP 562 `__getattr__`), which its own configuration
loader does not. The tests run with a package that has been pruned.

    prune.py PREFIX     PREFIX: of a virtual environment, or a directory with the package in it
"""

import sys
from pathlib import Path

_GENERATED = ("client/models", "client/api", "aio/client/models", "aio/client/api")


def unused(package: Path) -> list[Path]:
    """The files of the package that go."""
    found = [path for path in package.rglob("*_test.py") if path.is_file()]
    for directory in _GENERATED:
        modules = sorted((package / directory).glob("*.py"))
        if len(modules) < 2:
            raise SystemExit(
                f"{package / directory}: no generated modules; is this another version?"
            )
        found += [module for module in modules if module.name != "__init__.py"]
    return found


def main(prefix: str) -> None:
    """Remove them, and all compiled modules of the package: they are made anew."""
    packages = [path for path in Path(prefix).rglob("kubernetes") if (path / "aio").is_dir()]
    if len(packages) != 1:
        raise SystemExit(f"{prefix}: {len(packages)} packages kubernetes; one is expected")
    files = unused(packages[0])
    freed = sum(path.stat().st_size for path in files)
    for path in (*files, *packages[0].rglob("*.pyc")):
        path.unlink()
    print(f"{packages[0]}: {len(files)} modules of {freed / 1e6:.0f} MB left out")


if __name__ == "__main__":
    main(*sys.argv[1:])
