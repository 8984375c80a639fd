"""`pyproxy config`: what a configuration file says, whether it can be used, what it may hold."""

import argparse
from typing import Any


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "config",
        help="show the configuration that holds, or say what is wrong with a file",
        description=__doc__,
        allow_abbrev=False,
    )
    parts = command.add_subparsers(dest="part", metavar="PART", required=True)

    show = parts.add_parser(
        "show",
        help="both documents, with every default filled in",
        description="Print the configuration that holds: both documents, with every default.",
        allow_abbrev=False,
    )
    show.add_argument("--config", metavar="FILE", help="a configuration file; else the defaults")
    show.add_argument("-o", "--output", choices=("yaml", "json"), default="yaml")
    show.set_defaults(main=_show)

    validate = parts.add_parser(
        "validate",
        help="say what is wrong with a file",
        description="Tell every fault of a file, and which of its fields have no effect.",
        epilog="exit status: 0 it can be used, 2 it cannot",
        allow_abbrev=False,
    )
    validate.add_argument("file", metavar="FILE")
    validate.set_defaults(main=_validate)

    reference = parts.add_parser(
        "reference",
        help="every field, its default and its meaning",
        description="Print every field, its default and its meaning, in Markdown.",
        allow_abbrev=False,
    )
    reference.set_defaults(main=_reference)


def _show(arguments: argparse.Namespace) -> int:
    """Print the documents; as JSON, one a line."""
    import json

    import yaml

    from pyproxy.cli.settings import read_configuration

    documents = read_configuration(arguments.config).documents()
    if arguments.output == "json":
        for document in documents:
            print(json.dumps(document))
    else:
        print(yaml.safe_dump_all(documents, sort_keys=False), end="")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from pyproxy.cli.settings import parse_file

    _, unused = parse_file(arguments.file)
    for line in unused:
        print(f"{arguments.file}: {line}")
    print(f"{arguments.file}: no fault")
    return 0


def _reference(_: argparse.Namespace) -> int:
    from pyproxy.config.reference import reference

    print(reference(), end="")
    return 0
