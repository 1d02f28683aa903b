"""`thinkery serve` before it serves: which variables it tells clients, and what it says where there is no model."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi")


@pytest.mark.parametrize(
    ("words", "address"),
    [
        ((), "http://127.0.0.1:8000"),
        (("--host", "box.example", "--port", 9000), "http://box.example:9000"),
        (("--host", "::1"), "http://[::1]:8000"),
        (("--host", "0.0.0.0"), "http://127.0.0.1:8000"),
        (("host=::", "port=80"), "http://[::1]:80"),
    ],
)
def test_the_variables_of_clients_are_printed_for_a_shell(thinkery, words, address) -> None:
    code, out, _ = thinkery("serve", *words, "--print-env")
    assert code == 0
    assert out.splitlines() == [
        "export DEEPSEEK_API_KEY=YOUR-KEY",
        f"export DEEPSEEK_BASE_URL={address}/v1",
        f"export DEEPSEEK_API_BASE={address}/v1",
        "export OPENAI_API_KEY=YOUR-KEY",
        f"export OPENAI_BASE_URL={address}/v1",
    ]


def test_without_a_model_and_without_the_demo_it_says_what_to_do(thinkery, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = thinkery("serve", "port=0")
    assert (code, out) == (4, "")
    assert "runs/demo: the demo has not been run here\n  try: make demo, or name a model" in err
