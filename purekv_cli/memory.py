"""How much main memory a run may take: asked before frames are decoded and before weights are read."""

import os
from pathlib import Path


def free_memory() -> int | None:
    """Bytes of main memory that can be had, within the container's limit; None where the system does not tell."""
    room = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                room.append(int(line.split()[1]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            room.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    if not room and "SC_PHYS_PAGES" in os.sysconf_names:
        room.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(room) if room else None
