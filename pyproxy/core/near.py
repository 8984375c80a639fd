"""Names like one that was asked for and is not there."""

import difflib
from collections.abc import Iterable

_MOST = 3


def near(namespace: str, name: str, known: Iterable[tuple[str, str]]) -> list[str]:
    """Return Services of nearly this name: if there are any, those of the same name elsewhere."""
    texts = [f"{found_namespace}/{found}" for found_namespace, found in known]
    same_name = [text for text in texts if text.endswith(f"/{name}")]
    return same_name[:_MOST] or near_texts(f"{namespace}/{name}", texts)


def near_texts(asked: str, known: list[str]) -> list[str]:
    """Return the texts that are most like it, the nearest first."""
    return difflib.get_close_matches(asked, known, n=_MOST)
