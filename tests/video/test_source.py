"""What comes from stdin or the network is a file for as long as it is needed, and every way it fails is said."""

import io
import shutil
import ssl
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.errors import OutOfResources, UnreadableInput, UsageError
from purekv_cli.video import source
from purekv_cli.video.probe import probe
from purekv_cli.video.source import Local, local
from tests.clips import Recipe, make
from tests.video.served import served

NOISE = bytes(range(256)) * 20_000  # 5 MB


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def web(tmp_path: Path) -> Path:
    folder = tmp_path / "web"
    folder.mkdir()
    make(folder, Recipe("clip.mp4"))
    (folder / "noise.bin").write_bytes(NOISE)
    return folder


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_path_stays_what_it_is(tmp_path: Path) -> None:
    with local(str(tmp_path / "a b.mp4")) as found:
        assert found == Local(tmp_path / "a b.mp4")


def test_stdin_is_a_file_until_the_end(web: Path, monkeypatch: pytest.MonkeyPatch, own_temporary_folder: Path) -> None:
    pipe(monkeypatch, (web / "clip.mp4").read_bytes())
    with local("-") as found:
        info = probe(found)
        assert (info.frame_count, info.source, info.path.name) == (48, "-", "stdin")
    assert list(own_temporary_folder.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(
    web: Path, monkeypatch: pytest.MonkeyPatch, own_temporary_folder: Path
) -> None:
    """But not what a living one still reads, nor what was made this very moment, nor anybody else's folder."""
    code = f"""
import os, signal, sys, tempfile
tempfile.tempdir = {str(own_temporary_folder)!r}
from purekv_cli.video.source import local
with local("-"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], input=NOISE, check=False)
    (left,) = own_temporary_folder.iterdir()
    assert (left / "stdin").stat().st_size == len(NOISE)
    other = own_temporary_folder / "purekv-something"
    other.mkdir()
    pipe(monkeypatch, NOISE)
    with local("-") as kept:
        assert left.exists()
        monkeypatch.setattr("purekv_cli.video.passing.YOUNG", 0.0)
        pipe(monkeypatch, NOISE)
        with local("-"):
            assert not left.exists()
            assert kept.path.exists()
    assert list(own_temporary_folder.iterdir()) == [other]


def test_it_is_gone_after_an_error_too(web: Path, monkeypatch: pytest.MonkeyPatch, own_temporary_folder: Path) -> None:
    pipe(monkeypatch, NOISE)
    with pytest.raises(KeyboardInterrupt), local("-"):
        raise KeyboardInterrupt
    assert list(own_temporary_folder.iterdir()) == []


@pytest.mark.parametrize(
    "text", [b"y\n" * 10**6, "größer\n".encode() * 10**5, b"#EXTM3U\n", b"\xef\xbb\xbf<html>"], ids=lambda t: str(t[:8])
)
def test_text_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    pipe(monkeypatch, text)
    with pytest.raises(UnreadableInput, match="stdin is text, not a video") as caught, local("-"):
        pass
    assert "yt-dlp" in caught.value.hint


def test_nothing_on_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"")
    with pytest.raises(UnreadableInput, match="is empty"), local("-"):
        pass
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="no video comes on stdin"), local("-"):
        pass


def test_a_full_disk_is_found_before_it_is_full(web: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, source.RESERVE + 2**20))
    with (
        served(web) as server,
        pytest.raises(OutOfResources, match=r"no room for noise\.bin"),
        local(server.url("noise.bin")),
    ):
        pass


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_an_address_is_a_file_of_its_name(web: Path, own_temporary_folder: Path, ranges: bool, length: bool) -> None:
    told: list[tuple[int, int | None]] = []
    with served(web, ranges=ranges, length=length) as server:
        with local(server.url("clip.mp4?key=1"), lambda *step: told.append(step)) as found:
            info = probe(found)
            assert found.path.read_bytes() == (web / "clip.mp4").read_bytes()
        assert (info.path.name, info.source) == ("clip.mp4", server.url("clip.mp4?key=1"))
        assert len(server.asked) == 1  # one transfer, whatever is read of it
    assert told[-1] == ((web / "clip.mp4").stat().st_size, (web / "clip.mp4").stat().st_size if length else None)
    assert list(own_temporary_folder.iterdir()) == []


def test_a_download_that_breaks_off_goes_on_where_it_stopped(web: Path) -> None:
    with served(web, breaks=3) as server, local(server.url("noise.bin")) as found:
        assert found.path.read_bytes() == NOISE
        begins = [int(asked["Range"].removeprefix("bytes=").rstrip("-")) for asked in server.asked[1:]]
        assert begins == sorted(begins)
        assert min(begins) > 0
        assert all(asked["If-Range"] == '"one"' for asked in server.asked[1:])


@pytest.mark.parametrize(("ranges", "breaks"), [(False, 1), (True, 9)])
def test_one_that_cannot_go_on_is_said(web: Path, ranges: bool, breaks: int) -> None:
    with served(web, ranges=ranges, breaks=breaks) as server:
        with (
            pytest.raises(UnreadableInput, match=r"broke off after \d.* of 4\.9 MiB"),
            local(server.url("noise.bin")),
        ):
            pass
        assert len(server.asked) == (1 if not ranges else source.RESUMES + 1)


def test_a_missing_page_and_a_page_of_text(web: Path) -> None:
    (web / "page.mp4").write_text("<html>Please log in</html>")
    with served(web) as server:
        with pytest.raises(UnreadableInput, match="the server answers 404 Not Found"), local(server.url("none.mp4")):
            pass
        with pytest.raises(UnreadableInput, match=r"page.mp4 is text"), local(server.url("page.mp4")):
            pass


def test_a_server_that_says_nothing_is_given_up(web: Path) -> None:
    with (
        served(web, stalls=True) as server,
        pytest.raises(UnreadableInput, match=r"no byte came for 0\.2 s"),
        local(server.url("clip.mp4"), patience=0.2),
    ):
        pass


def test_nobody_there_and_no_such_host(web: Path) -> None:
    with served(web) as server:
        url = server.url("clip.mp4")
    with pytest.raises(UnreadableInput, match="refused"), local(url):
        pass
    with pytest.raises(UnreadableInput, match=r"no\.such\.host\.invalid"), local("http://no.such.host.invalid/a.mp4"):
        pass


def test_no_tls_where_it_was_asked_for(web: Path) -> None:
    with served(web) as server:
        url = server.url("clip.mp4").replace("http:", "https:")
        with pytest.raises(UnreadableInput, match="no TLS there"), local(url, patience=5):
            pass


def test_a_certificate_that_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "self-signed certificate"
        raise source.URLError(error)

    monkeypatch.setattr(source, "urlopen", refuse)
    with pytest.raises(UnreadableInput, match=r"not trusted \(self-signed certificate\)"), local("https://a.b/c.mp4"):
        pass


def test_user_and_password_go_to_that_server_only_and_into_no_report(web: Path) -> None:
    with served(web, user="Basic bWU6YSBi") as server:
        with local(f"http://me:a%20b@127.0.0.1:{server.port}/clip.mp4") as found:
            assert found.name == server.url("clip.mp4")
        with pytest.raises(UnreadableInput, match="401") as caught, local(server.url("clip.mp4")):
            pass
        assert "user and a password" in caught.value.hint
    with served(web) as server, local(f"http://me:secret@127.0.0.1:{server.port}/moved.mp4"):
        assert "Authorization" in server.asked[0]
        assert "Authorization" not in server.asked[1]


def test_offline_touches_no_network() -> None:
    with pytest.raises(UsageError, match="--offline"), local("https://example.org/clip.mp4", offline=True):
        pass


@given(st.text(max_size=60))
def test_no_address_leads_out_of_the_temporary_folder(name: str) -> None:
    made = source._file_name(source.urlsplit(f"http://h/a/{source.unquote(name)}".replace("[", "")))
    assert made == Path(made).name
    assert not made.startswith(".")
