"""A small web server for tests: with ranges or without, breaking off, stalling, refusing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread


@dataclass
class Server:
    """What it does, and what it was asked."""

    folder: Path
    ranges: bool = True
    breaks: int = 0  # how often it closes the connection halfway
    stalls: bool = False  # sends nothing at all
    length: bool = True  # says how long the file is
    user: str | None = None  # "Basic ...", which requests must bring
    asked: list[dict[str, str]] = field(default_factory=list)  # headers
    leave: Event = field(default_factory=Event)
    port: int = 0

    def url(self, name: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{name}"


@contextmanager
def served(folder: Path, **ways: object) -> Iterator[Server]:
    server = Server(folder, **ways)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(dict(self.headers))
            if server.stalls:
                server.leave.wait(10)
                return
            if server.user and self.headers.get("Authorization") != server.user:
                self.send_error(401)
                return
            if self.path == "/moved.mp4":
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{server.port}/clip.mp4")
                self.end_headers()
                return
            file = folder / self.path.partition("?")[0].lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            data, begin = file.read_bytes(), 0
            if server.ranges and (wanted := self.headers.get("Range")):
                begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if begin else 200)
            if server.length:
                self.send_header("Content-Length", str(len(data) - begin))
            if server.ranges:
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", '"one"')
            self.end_headers()
            data = data[begin:]
            if server.breaks:
                server.breaks -= 1
                data = data[: len(data) // 2]
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        server.port = listening.server_address[1]
        thread = Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.leave.set()
            listening.shutdown()
            thread.join()
