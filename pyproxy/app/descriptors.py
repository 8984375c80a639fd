"""How many descriptors this process may have."""

import resource


def raise_descriptor_limit() -> None:
    """Allow as many descriptors as the system does: each connection takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
