"""Numbers for people: bytes in binary units, seconds, points in time."""


def size(count: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def span(seconds: float) -> str:
    """0.0123 -> "12 ms", 75 -> "75.0 s"."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def clock(seconds: float) -> str:
    """75.5 -> "1:15.5"."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:04.1f}".removesuffix(".0")
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"


def times(full: float, kept: float) -> str:
    """How many times smaller: "5.0x"."""
    return f"{full / kept:.1f}x" if kept else "-"
