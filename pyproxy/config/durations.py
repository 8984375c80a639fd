"""Durations as Go writes them: 1m30s, 250ms. Kubernetes' configuration files have no others."""

import re

# Go's time.ParseDuration: a sign, then numbers each with a unit; a bare 0 needs none.
_DURATION = re.compile(r"([+-]?)((?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_MAX_S = (1 << 63) / 1e9  # Go counts nanoseconds in 63 bits, which is 292 years


def parse_duration(text: str) -> float:
    """Return the seconds. Raises ValueError for a text that Go would not read either."""
    if text in {"0", "+0", "-0"}:
        return 0.0
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("is not a duration such as 1m30s")
    total = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(found[2]))
    if total >= _MAX_S:
        raise ValueError("is a duration of more than 292 years")
    return -total if found[1] == "-" else total


def format_duration(seconds: float) -> str:
    """Return seconds, at least 0, as Go writes them; what is below a microsecond is left out."""
    micros = round(seconds * 1e6)
    if micros < 1_000_000:
        return f"{micros / 1000:.10g}ms" if micros else "0s"
    minutes, rest = divmod(micros, 60_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1e6:.10g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
