"""What every test folder shares: runs see no settings of the person who runs the tests, and no network."""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported anywhere

if not Path("/dev/nvidiactl").exists() and find_spec("triton"):
    # Triton's own library must be imported ready for its interpreter; each kernel decides again when it is imported.
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    import_module("triton.language")
    if before is None:  # left set, everything that runs by itself would take interpreted kernels
        del os.environ["TRITON_INTERPRET"]


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No PUREKV_* of the surroundings; configuration and cache folders of their own."""
    for name in [name for name in os.environ if name.startswith("PUREKV_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model in a released checkpoint's layout."""
    from tests.bundle import write_bundle

    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny-qwen2.5-vl")
