"""A video that is no file here, as one: what comes on stdin (`-`), and http(s) addresses.

Probing reads every packet and decoding seeks, so both are copied once to a temporary file, which is removed at the end;
after that nothing differs from a file. A download that breaks off is taken up again where it stopped, if the server
can do that. Text (a web page, a playlist, `yes |`) is refused after its first bytes.
"""

import http.client
import re
import shutil
import ssl
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import Request, urlopen

from purekv_cli import __version__
from purekv_cli.errors import OutOfResources, UnreadableInput, UsageError
from purekv_cli.video.passing import passing_folder

STDIN = "-"
PATIENCE = 30.0  # s without a byte from the network
RESUMES = 3  # of a download that breaks off
CHUNK = 2**20  # bytes
RESERVE = 2**28  # bytes left free on the disk
SNIFF = 2**16  # bytes that tell text from a video
DOWNLOADER = "Give a video file's own address; what a downloader fetches can be piped: yt-dlp -o - PAGE | purekv ask -"

Told = Callable[[int, int | None], None]  # (bytes so far, bytes in all if they are known)


@dataclass(frozen=True, slots=True)
class Local:
    """A video that can be opened."""

    path: Path
    name: str = ""  # what the user called it, where `path` is a copy of it

    @property
    def stem(self) -> str:
        return self.path.stem


def is_url(video: str) -> bool:
    return video.lower().startswith(("http://", "https://"))


@contextmanager
def local(
    video: str, told: Told | None = None, *, offline: bool = False, patience: float = PATIENCE
) -> Iterator[Local]:
    """The video as a file, for as long as the block lasts.

    Args:
        video: a path, an http(s) address, or "-".
        offline: whether the network may not be touched.
        patience: s without a byte, after which a server is given up.

    Raises:
        UnreadableInput: nothing there, no answer, or text. UsageError: a terminal for stdin, an address when offline.
        OutOfResources: no room on the disk.
    """
    if video != STDIN and not is_url(video):
        yield Local(Path(video))
        return
    if offline and is_url(video):
        raise UsageError("--offline was given, and the video is on the network", "Download it first, or go online.")
    with passing_folder() as folder:
        if video == STDIN:
            path = Path(folder, "stdin")
            with path.open("wb") as file:
                _Copy(file, "stdin", told or _silent).all_of(_stdin())
            yield Local(path, STDIN)
        else:
            address = urlsplit(video)
            path = Path(folder, _file_name(address))
            with path.open("wb") as file:
                _download(address, _Copy(file, path.name, told or _silent), patience)
            yield Local(path, _plain(address))


def _silent(done: int, total: int | None) -> None:
    pass


def _stdin() -> IO[bytes]:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("no video comes on stdin", 'Pipe one: cat clip.mp4 | purekv ask - "what happens?"')
    return sys.stdin.buffer


def _file_name(address: SplitResult) -> str:
    name = re.sub(r"[^\w.\- ]", "_", unquote(address.path).rsplit("/", 1)[-1])[-100:]
    return name.lstrip(".") or "video"


def _plain(address: SplitResult) -> str:
    """The address without user and password, as reports may show it."""
    return address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()


class _Copy:
    """The temporary file while it grows."""

    def __init__(self, file: IO[bytes], name: str, told: Told) -> None:
        self._file, self._name, self._told = file, name, told
        self.size = 0
        self.total: int | None = None

    def all_of(self, stream: "IO[bytes] | http.client.HTTPResponse") -> None:
        """Errors: UnreadableInput for text and for nothing, OutOfResources before the disk is full."""
        while chunk := stream.read(CHUNK):
            free = shutil.disk_usage(self._file.name).free - RESERVE
            if free < max(len(chunk), (self.total or 0) - self.size):
                raise OutOfResources(
                    f"no room for {self._name} on the disk of {Path(self._file.name).parent.parent}",
                    "Free some space, or set TMPDIR to a folder on another disk.",
                )
            if self.size == 0 and _is_text(chunk[:SNIFF]):
                raise UnreadableInput(f"{self._name} is text, not a video", DOWNLOADER)
            self._file.write(chunk)
            self.size += len(chunk)
            self._told(self.size, self.total)
        if not self.size:
            raise UnreadableInput(f"{self._name} is empty (0 bytes)", "Check where it comes from.")

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.size = 0


def _is_text(head: bytes) -> bool:
    """No container is UTF-8 without control characters."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # else a character is cut off at the end
            return False
        text = head[: error.start].decode("utf-8")
    return not any(ord(character) < 32 and character not in "\t\n\r\f" for character in text)


def _download(address: SplitResult, copy: _Copy, patience: float) -> None:
    mark, broken = None, 0  # what tells that the server's file is still the same
    while True:
        try:
            with urlopen(_request(address, copy.size, mark), timeout=patience) as answer:
                if copy.size and answer.status != 206:
                    copy.restart()
                length = answer.headers.get("Content-Length")
                copy.total = copy.size + int(length) if length else None
                can_resume = answer.headers.get("Accept-Ranges") == "bytes" or answer.status == 206
                mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") if can_resume else None
                copy.all_of(answer)
            if copy.total is None or copy.size >= copy.total:
                return
            reason: Exception = EOFError("the connection was closed")
        except HTTPError as error:
            raise _refused(address, error) from error
        except (OSError, http.client.HTTPException) as error:
            reason = error
        broken += 1
        if mark is None or not copy.size or broken > RESUMES:
            raise _unreachable(address, reason, copy, patience) from reason


def _request(address: SplitResult, begin: int, mark: str | None) -> Request:
    request = Request(_plain(address), headers={"User-Agent": f"purekv/{__version__}"})
    if address.username is not None:
        pair = f"{unquote(address.username)}:{unquote(address.password or '')}".encode()
        request.add_unredirected_header("Authorization", f"Basic {b64encode(pair).decode()}")
    if begin and mark:
        request.add_header("Range", f"bytes={begin}-")
        request.add_header("If-Range", mark)
    return request


def _refused(address: SplitResult, error: HTTPError) -> UnreadableInput:
    hints = {401: "It wants a user and a password.", 403: "It wants another user, or none at all from here."}
    hints |= {404: "Check the address.", 410: "It is gone.", 429: "Wait a while, then try again."}
    hint = hints.get(error.code, "Try again later." if error.code >= 500 else "Check the address.")
    return UnreadableInput(f"{_plain(address)}: the server answers {error.code} {error.reason}", hint)


def _unreachable(address: SplitResult, reason: Exception, copy: _Copy, patience: float) -> UnreadableInput:
    cause = reason.reason if isinstance(reason, URLError) else reason
    where = f"{_plain(address)}"
    if copy.size:
        whole = f" of {copy.total / 2**20:.1f}" if copy.total else ""
        where += f" broke off after {copy.size / 2**20:.1f}{whole} MiB"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return UnreadableInput(
            f"{where}: its certificate is not trusted ({cause.verify_message})", "Check the address and this clock."
        )
    if isinstance(cause, ssl.SSLError):
        return UnreadableInput(f"{where}: no TLS there ({cause.reason})", "Check the address; it may be http://.")
    if isinstance(cause, str) and "unknown url type" in cause:
        return UnreadableInput(f"{where}: this Python has no TLS", "Install one that has the ssl module.")
    if isinstance(cause, TimeoutError):
        return UnreadableInput(f"{where}: no byte came for {patience:g} s", "Try again later, or download it first.")
    return UnreadableInput(f"{where}: {cause}", "Check the address and the network, or download it first.")
