"""Where the simulator's servers listen: on this machine alone, unless it is given a name for others."""

LOOPBACK = "127.0.0.1"


def listens_on(name: str) -> str:
    """The address to listen on, for a machine that others call ``name``."""
    return LOOPBACK if name == LOOPBACK else "0.0.0.0"  # noqa: S104 - asked for by name, as in a container
