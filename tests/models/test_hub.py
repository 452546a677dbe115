"""Fetching from a hub: a small server on this machine stands in for it, so the real client is what is tested."""

import errno
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from purekv_cli.errors import ModelUnavailable, OutOfResources, PureKVError
from purekv_cli.models import hub, registry

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FAILURES = {
    "gone": (404, "RepoNotFound"),
    "secret": (401, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "unrevised": (404, "RevisionNotFound"),
    "empty": (404, "EntryNotFound"),
}


class FakeHub:
    """Serves folders as `owner/<name>` and fails as the name says."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}
        self.fetched: list[str] = []
        hub_ = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub_.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub_.answer(self, body=False)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = request.path.partition("?")[0]
        name = path.split("owner/")[-1].split("/")[0]
        status, headers, content = self._find(name, path)
        if body and "/resolve/" in path and status == 200:
            self.fetched.append(path.rpartition("/")[2])
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            request.send_header(key, value)
        request.end_headers()
        if body:
            request.wfile.write(content)

    def _find(self, name: str, path: str) -> tuple[int, dict[str, str], bytes]:
        if name in FAILURES:
            status, code = FAILURES[name]
            return status, {"X-Error-Code": code, "X-Repo-Commit": COMMIT}, b""
        folder = self.folders.get(name)
        if folder is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        files = sorted(folder.iterdir())
        listing = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name} for file in files]
        if "/resolve/" in path:
            file = folder / path.rpartition("/")[2]
            if not file.is_file():
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
            return 200, {"ETag": f'"{file.name}"', "X-Repo-Commit": COMMIT}, file.read_bytes()
        if "/tree/" in path:
            return 200, {}, json.dumps(listing).encode()
        siblings = [{"rfilename": file.name} for file in files]
        return 200, {}, json.dumps({"id": f"owner/{name}", "sha": COMMIT, "siblings": siblings}).encode()


@pytest.fixture
def fake(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", fake.url)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", fake.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.url + "/{repo_id}/resolve/{revision}/{filename}")
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def fetch(name: str) -> registry.Source:
    return registry.fetch(registry.resolve(f"owner/{name}"))


def test_a_model_is_fetched_once_and_loads(fake: FakeHub, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "served"))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle nobody wants")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    fake.folders["fine"] = folder
    source = fetch("fine")
    assert source.folder is not None
    assert source.geometry == registry.resolve(str(checkpoint)).geometry
    assert "model-00001-of-00002.safetensors" in fake.fetched
    assert not {"pytorch_model.bin", "modeling_evil.py"} & set(fake.fetched)
    count = len(fake.fetched)
    assert registry.resolve("owner/fine", offline=True) == source
    assert registry.load(source, device="cpu").name == "owner/fine"
    assert len(fake.fetched) == count


def test_another_architecture_is_refused_before_its_weights(fake: FakeHub, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "served"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    fake.folders["llama"] = folder
    with pytest.raises(ModelUnavailable, match="LlamaForCausalLM"):
        fetch("llama")
    assert fake.fetched == ["config.json"]


def test_pickled_weights_alone_are_no_model(fake: FakeHub, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    fake.folders["pickled"] = tmp_path
    with pytest.raises(ModelUnavailable, match="no safetensors"):
        fetch("pickled")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone", "no model owner/gone"),
        ("secret", "no model owner/secret on the hub, or it is private"),
        ("gated", "terms"),
        ("unrevised", "no revision"),
        ("empty", r"no config\.json"),
    ],
)
def test_what_the_hub_refuses(fake: FakeHub, name: str, says: str) -> None:
    with pytest.raises(ModelUnavailable, match=says):
        fetch(name)


def test_no_network_is_said_at_once(hub_cache: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purekv_cli.demo.MODEL_DIR", checkpoint)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("purekv_cli.models.hub.getproxies", dict)
    with pytest.raises(ModelUnavailable, match="cannot be reached") as caught:
        fetch("any")
    assert "-m demo" in caught.value.hint
    assert not registry.choose(confirm=pytest.fail).repo  # auto does not even ask


def _raise(error: Exception) -> Callable[..., None]:
    def fail(*args: object, **options: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutOfResources, "no space left"),
        (OSError(errno.EACCES, "Permission denied"), ModelUnavailable, "could not be fetched"),
        (TimeoutError("timed out"), ModelUnavailable, "timed out"),
        (RuntimeError("stream closed"), ModelUnavailable, "RuntimeError: stream closed"),
    ],
)
def test_what_breaks_on_the_way(
    monkeypatch: pytest.MonkeyPatch, hub_cache: Path, error: Exception, kind: type[PureKVError], says: str
) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _raise(error))
    with pytest.raises(kind, match=says):
        fetch("any")


def test_ctrl_c_passes_through(monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> None:
    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _raise(KeyboardInterrupt()))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        fetch("any")
