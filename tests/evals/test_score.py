"""`thinkery score`: lines in, verdicts out, whatever some of the lines are."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from thinkery.cli import score as command
from thinkery.cli.main import main
from thinkery.evals.kinds import KINDS, stated_answer
from thinkery.evals.score import Options, judged
from thinkery.rewards.math_answer import shared_pool
from thinkery.tasks.public import data_root


class Stdin(io.TextIOWrapper):
    """Standard input with these bytes."""

    def __init__(self, data):
        super().__init__(io.BytesIO(data))


@pytest.fixture
def score(monkeypatch, capsys):
    """Run the command on some lines (dicts, or bytes as they are); returns exit code, results and summary."""

    def run(kind, *lines, options=()):
        data = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
        monkeypatch.setattr("sys.stdin", Stdin(data))
        code = main(["score", kind, *options])
        *results, summary = map(json.loads, capsys.readouterr().out.splitlines())
        return code, results, summary

    return run


def test_the_command_offers_every_kind():
    assert set(command.KINDS) == set(KINDS)


def test_math_is_judged_in_any_form_and_ungradable_is_not_wrong(score):
    code, results, summary = score(
        "math",
        {"gold": "1/2", "answer": "0.5"},
        {"gold": 7, "answer": "It is \\boxed{8}, no, \\boxed{7}"},
        {"gold": "$\\frac{3}{4}$", "answer": "<think>0.75</think> \\boxed{0.7}"},
        {"gold": "7", "answer": "<think>7"},
        {"gold": "", "answer": "9"},
    )
    assert [result["correct"] for result in results] == [True, True, False, False, None]
    assert (code, summary) == (0, {"accuracy": 0.5, "n": 5, "ungraded": 1})


def test_an_unusable_line_is_named_and_the_others_are_judged(score):
    code, results, summary = score(
        "pass-at-k",
        {"n": 4, "c": 1, "k": 2},
        b"not json\n",
        b"\n",
        b"[1, 2]\n",
        b'{"n": "many", "c": 1, "k": 1}\n',
        b"\xff\xfe\n",
        b"[" * 100000 + b"\n",
        b'{"n": 4, "c": 5, "k": 1}\n',
        {"n": 16, "c": 1, "k": 16},
    )
    assert code == 1
    assert [result.get("value") for result in results] == [0.5, None, None, None, None, None, None, 1.0]
    assert [result["error"][:7] for result in results if "error" in result] == [
        f"line {i}:" for i in (2, 4, 5, 6, 7, 8)
    ]
    assert "n: input should be a valid integer" in results[3]["error"]
    assert summary == {"value": 0.75, "n": 2, "ungraded": 0, "errors": 6}


def test_half_a_character_is_an_error_of_its_line_alone(score):
    code, results, _ = score("math", b'{"gold": "\\ud800", "answer": "3"}\n', {"gold": "3", "answer": "3"})
    assert (code, results[1]["correct"]) == (1, True)
    assert "surrogates" in results[0]["error"]


def test_the_summary_may_come_alone_and_of_nothing_it_is_empty(score):
    assert score("pass-at-k", {"n": 2, "c": 1, "k": 1}, options=["--summary"])[1] == []
    assert score("pass-at-k") == (0, [], {"value": None, "n": 0, "ungraded": 0})
    for kind in KINDS:
        assert score(kind)[0] == 0


def test_samples_give_pass_and_majority_over_questions(score):
    _, results, summary = score(
        "samples",
        {"id": "a", "gold": "4", "responses": ["\\boxed{4}", "\\boxed{4.0}", "The answer is 5.", "none"]},
        {"id": "b", "gold": "1/3", "responses": ["2", "3", "2", "<think>so</think>\n\\boxed{\\frac{1}{3}}"]},
    )
    assert [(r["pass@1"], r["cons@k"], r["pass@k"]) for r in results] == [(0.5, 1.0, 1.0), (0.25, 0.0, 1.0)]
    assert (summary["pass@1"], summary["cons@k"], summary["pass@k"]) == (0.375, 0.5, 1.0)
    assert (summary["k"], summary["n"], summary["ungraded"]) == (4, 2, 0)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("<answer>3</answer>", "3"),
        (" 42 ", "42"),
        ("reasoning</think>\n5", "5"),
        ("<think>\\boxed{5}", None),
        ("<think>x</think>", None),
        ("\\boxed{5} or \\boxed{", None),
        ("<answer>5", None),
    ],
)
def test_an_answer_is_the_last_box_or_tag_or_all_there_is(text, answer):
    assert stated_answer(text) == answer


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_programs_are_run_on_their_tests(score):
    double = {"program": "print(2 * int(input()))"}
    check = {"test": "def check(f):\n    assert f(1) == 2", "entry_point": "inc"}
    code, results, summary = score(
        "code",
        double | {"tests": [{"stdin": "2\n", "stdout": "4\n"}]},
        double | {"tests": [{"stdin": "2\n", "stdout": "5\n"}]},
        {"program": "def inc(x):\n    return x + 1"} | check,
        {"program": "def inc(x):\n    raise KeyError(x)"} | check,
        {"program": "inc = 1", "test": ""},
    )
    assert [result.get("verdict") for result in results] == ["pass", "wrong", "pass", "error", None]
    assert (code, summary) == (1, {"passed": 0.5, "n": 4, "ungraded": 0, "errors": 1})


def test_the_last_fenced_block_behind_the_thought_is_the_program(score):
    blocks = "```python\nfirst()\n```\nor\n```python\nlast()\n```\nDone."
    _, results, summary = score(
        "extract-code", {"output": blocks}, {"output": f"<think>{blocks}</think> None."}, {"output": "no code"}
    )
    assert [result["code"] and result["code"].strip() for result in results] == ["last()", None, None]
    assert summary == {"found": 1, "n": 3}


def test_ifeval_counts_prompts_and_instructions_strictly_and_loosely(score):
    pytest.importorskip("if_verifiable", reason="the extra `bench` is not installed")
    both = {"prompt": "P", "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"]}
    code, results, summary = score(
        "ifeval",
        both | {"response": "<<T>>\nfine", "kwargs": [{}, {}]},
        both | {"response": "Sure, here:\n<<T>>\nfine", "kwargs": [{}, {}]},
        both | {"response": "a, b", "kwargs": [{}]},
    )
    assert results[:2] == [
        {"strict": [True, True], "loose": [True, True]},
        {"strict": [False, True], "loose": [True, True]},
    ]
    assert (code, summary["errors"]) == (1, 1)
    assert {name: summary[name] for name in ("prompt_strict", "prompt_loose")} == {
        "prompt_strict": 0.5,
        "prompt_loose": 1.0,
    }
    assert (summary["instruction_strict"], summary["instruction_loose"]) == (0.75, 1.0)


def test_an_ifeval_line_with_a_keyword_that_cannot_be_read_costs_that_line_alone(score):
    pytest.importorskip("if_verifiable", reason="the extra `bench` is not installed")
    line = {"prompt": "P", "response": "a b", "instruction_id_list": ["keywords:existence"]}
    code, results, summary = score("ifeval", *(line | {"kwargs": [{"keywords": [word]}]} for word in ("a", "(a", "b")))
    assert (code, summary["n"], summary["errors"]) == (1, 2, 1)
    assert "no regular expression" in results[1]["error"]


def test_alpaca_eval_works_without_its_reference_data_and_says_so(score, monkeypatch):
    monkeypatch.delenv("THINKERY_DATA", raising=False)
    line = {"index": 0, "output_1": "long answer", "output_2": "answer"}
    code, results, summary = score(
        "alpaca-eval", line | {"preference": 1.8}, line | {"preference": None}, line | {"preference": 3}
    )
    assert (code, [result.get("win") for result in results]) == (1, [pytest.approx(0.8), None, None])
    assert (summary["win_rate"], summary["n"], summary["avg_length"]) == (pytest.approx(80), 1, 6)
    assert summary["lc_win_rate"] is None
    assert "THINKERY_DATA" in summary["lc_data"]


@pytest.mark.skipif(data_root() is None, reason="THINKERY_DATA is not set")
def test_alpaca_eval_names_the_reference_data_it_used(score):
    lines = [
        {"index": i, "preference": 1 + (i % 3 == 0), "output_1": "x" * (500 + i % 7), "output_2": "x" * (500 + i % 5)}
        for i in range(805)
    ]
    _, _, summary = score("alpaca-eval", *lines, options=["--summary"])
    assert summary["lc_data"] in ("official", "reconstructed")
    assert summary["win_rate"] == pytest.approx(100 * 269 / 805)
    assert summary["lc_win_rate"] == pytest.approx(summary["win_rate"], abs=3)


def test_the_judges_of_alpaca_eval_and_arena_hard_are_read(score):
    tops = [{"token": "m", "logprob": -0.6931471805599453}, {"token": "M", "logprob": -0.6931471805599453}]
    _, results, summary = score(
        "alpaca-judge", {"top_logprobs": tops, "is_switched": False}, {"top_logprobs": {}, "is_switched": True}
    )
    assert [result["preference"] for result in results] == [1.5, None]
    assert summary == {"preference": 1.5, "n": 2, "ungraded": 1}
    _, results, summary = score("arena-verdict", {"text": "[[A=B]]"}, {"text": "[[A>B]] [[B>A]]"})
    assert [result["verdict"] for result in results] == ["A=B", None]
    assert summary == {"verdicts": {"A=B": 1}, "none": 1, "n": 2}


def test_arena_hard_scores_every_model_against_the_baseline(score):
    battle = {"model_a": "base", "model_b": "m"}
    lines = [battle | {"winner": winner} for winner in ("B>>A", "model_a", "tie", "model_b")]
    code, results, summary = score("arena-hard", *lines, options=["--baseline", "base"])
    assert [result["battles"] for result in results] == [3, 1, 1, 1]
    assert summary["m"]["score"] == pytest.approx(75, abs=1e-3)  # 3 + ½ + 1 of 6
    assert summary["base"] == {"score": 50.0, "low": 50.0, "high": 50.0}
    assert code == 0


def test_style_control_needs_the_style_of_each_battle(score):
    _, results, _ = score(
        "arena-hard", {"model_a": "gpt-4-0314", "model_b": "m", "winner": "tie"}, options=["--style", "length"]
    )
    assert "conv_metadata" in results[0]["error"]


def test_codeforces_gives_rank_and_rating(score, monkeypatch):
    standings = [{"points": 2, "penalty": 10, "rating": 1500}] * 2 + [{"points": 0, "penalty": 0, "rating": 1500}] * 2
    _, results, summary = score("codeforces", {"standings": standings, "points": 1, "penalty": 5})
    assert (results[0]["rank"], results[0]["rating"]) == (2, 1599)  # 400 · log10(3) = 190 above, but the bound is 1600
    assert summary["rating"] == 1599


@pytest.mark.skipif(data_root() is None, reason="THINKERY_DATA is not set")
def test_codeforces_knows_its_users(score):
    [result] = score("codeforces", {"standings": [], "points": 0, "penalty": 0})[1]
    assert result == {"rank": 0, "rating": 99, "percentile": 0.0}


def test_language_is_that_of_the_question_unless_named(score):
    thought = {"question": "这是什么?", "thought": "我 think 这 是"}
    _, results, _ = score("language", thought, thought | {"target": "en"}, {"question": "?", "thought": "12"})
    assert [result["share"] for result in results] == [0.75, 0.25, None]


def test_results_stream_before_the_input_ends():
    taken = []

    def lines():
        for i in range(1000):
            taken.append(i)
            yield json.dumps({"n": 2, "c": 1, "k": 1}).encode()

    next(judged(KINDS["pass-at-k"](Options()), lines()))
    assert len(taken) < 10


def test_fifty_thousand_samples_pass_in_the_memory_of_a_few():
    program = (
        "import io, json, resource, sys\n"
        "from thinkery.evals.kinds import KINDS\n"
        "from thinkery.evals.score import Options, judged\n"
        "def lines(count):\n"
        "    for i in range(count):\n"
        "        answers = [f'{\"x\" * 2000}\\\\boxed{{{i if k % 2 else 0}}}' for k in range(4)]\n"
        "        yield json.dumps({'id': i, 'gold': str(i), 'responses': answers}).encode()\n"
        "def peak(count):\n"
        "    kind = KINDS['samples'](Options())\n"
        "    done = sum(1 for _ in judged(kind, lines(count)))\n"
        "    return done, kind.tally.summary()['pass@1'], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(*peak(500), *peak(12500))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    few, _, before, many, right, after = map(float, done.stdout.split())
    assert (few, many) == (500, 12500)  # of four answers each
    assert right == pytest.approx(0.5, abs=0.001)
    assert after - before < 16 * 1024  # kilobytes; the input was 100 MB


def test_killing_the_workers_at_random_loses_and_double_counts_nothing():
    pool, over = shared_pool(), threading.Event()
    pool.grade([("1/2", "0.5")])
    draws = random.Random(0)

    def kill():
        while not over.wait(draws.uniform(0.2, 1.5)):
            workers = [int(pid) for pid in children()]
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draws.choice(workers), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        kind = KINDS["math"](Options())
        pairs = [
            {"gold": f"{i}/{2 * i + 1}", "answer": f"\\frac{{{i + i % 2}}}{{{2 * i + 1}}}"} for i in range(1, 1201)
        ]
        results = list(judged(kind, (json.dumps(pair).encode() for pair in pairs)))
    finally:
        over.set()
        killer.join()
    assert [result["correct"] for result in results] == [i % 2 == 0 for i in range(1, 1201)]
    assert kind.tally.summary() == {"accuracy": 0.5, "n": 1200, "ungraded": 0}


def children():
    """The processes of the workers that compare mathematical answers."""
    task = Path(f"/proc/{os.getpid()}/task")
    for pid in {pid for thread in task.iterdir() for pid in (thread / "children").read_text().split()}:
        with contextlib.suppress(OSError):
            if "math_worker" in Path(f"/proc/{pid}/cmdline").read_text():
                yield pid
