"""What stands behind a video on the command line, fetched if it must be, with progress and its size on stderr."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from purekv_cli.settings import Settings
from purekv_cli.terminal import Terminal

if TYPE_CHECKING:
    from purekv_cli.video.source import Local

HELP = "A video, a picture, a folder of pictures, an http(s) address, or - for stdin."
MIB = 2**20


@contextmanager
def opened(video: str, settings: Settings) -> Iterator["Local"]:
    """The video as a file for as long as the block lasts; a report that cannot be written is found before a download.

    Raises:
        What `video.source.local` raises, and UsageError.
    """
    from purekv_cli.report.units import size
    from purekv_cli.report.write import check_target
    from purekv_cli.runtime.events import Progress
    from purekv_cli.video.source import local

    terminal, output = Terminal(settings.output.quiet), settings.output
    if output.report and not output.dry_run:
        check_target(output.report)
    stages = terminal.stages()

    def told(done: int, total: int | None) -> None:
        stages.update(Progress("MiB", done // MIB, (total or 0) // MIB))

    with ExitStack() as stack:
        try:
            found = stack.enter_context(local(video, told, offline=settings.model.offline))
        finally:
            stages.clear()
        if found.name:
            length = size(found.path.stat().st_size)
            terminal.note(f"{found.path.name}: {length}, in {found.path.parent} until the end")
        yield found
