"""Memory as a bench wants it (see bench-transports)."""

import os


def touch(folder, size):
    """Writes and frees so much, but not what the machine does not have."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for _ in range(min(size, free // 2) >> 20):
            file.write(bytes(1 << 20))
    ballast.unlink()
