from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from thinkery.errors import EnvironmentLacks
from thinkery.sandbox import Asserts, Call, InputOutput, Limits, Pool, Program, Result, run_tests
from thinkery.sandbox.compare import difference

SUM = "a, b = map(int, input().split())\nprint(a + b)"


def test_a_program_reads_stdin_and_its_output_comes_back(pool: Pool) -> None:
    ended = pool.run(Program("print(input()[::-1])\nimport sys\nsys.exit('höre')", stdin="añb\n"))
    assert (ended.verdict, ended.stdout, ended.stderr, ended.exit_code) == ("error", "bña\n", "höre\n", 1)


def test_a_program_runs_as_main_and_ends_as_python_does(pool: Pool) -> None:
    source = (
        "import atexit, threading, time\natexit.register(print, 'exit')\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()\n"
        "if __name__ == '__main__': print('main', open('/dev/stdin').read(), end=' ')"
    )
    assert pool.run(Program(source, stdin="in")).stdout == "main in thread\nexit\n"


def test_a_crash_names_its_exception(pool: Pool) -> None:
    ended = pool.run(Program("x = [1]\nprint(x[5])"))
    assert (ended.verdict, ended.detail) == ("error", "exit code 1: IndexError: list index out of range")
    assert "SyntaxError" in pool.run(Program("def f(:")).detail


def test_files_of_a_program_can_be_imported_and_read(pool: Pool) -> None:
    files = {"shop/__init__.py": "", "shop/price.py": "TAX = 2", "data.txt": "7"}
    source = "from shop.price import TAX\nprint(TAX * int(open('data.txt').read()))"
    assert pool.run(Program(source, files=files)).stdout == "14\n"
    assert pool.run(Program("import os\nprint(os.listdir('.'))")).stdout == "[]\n"


def test_c_plus_plus_is_compiled_and_run(pool: Pool) -> None:
    source = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b << '\\n'; }"
    tests = [InputOutput("1 2", "3"), InputOutput("4 5", "9")]
    assert run_tests(Program(source, "cpp"), tests, pool) == Result("pass", "", 2, 2)
    assert "does not compile" in run_tests(Program("int main() { return x; }", "cpp"), tests, pool).detail
    crash = pool.run(Program("int main() { volatile int *p = 0; return *p; }", "cpp"))
    assert (crash.verdict, crash.detail) == ("error", "ended by SIGSEGV")


@pytest.mark.parametrize(
    ("output", "expected", "verdict"),
    [
        ("  3 \n\n", "3", "pass"),
        ("1.0 2e1", "1 20", "pass"),
        ("0.30000001", "0.3", "wrong"),
        ("YES", "yes", "wrong"),
        ("1\n2", "1 2", "wrong"),
        ("a 1.0", "a 1", "wrong"),  # as LiveCodeBench: a line is numbers or text
        ("", "", "pass"),
    ],
)
def test_outputs_are_compared_as_livecodebench_does(pool: Pool, output: str, expected: str, verdict: str) -> None:
    source = f"print({output!r}, end='')"
    assert run_tests(Program(source), [InputOutput("", expected)], pool).verdict == verdict


def test_judging_stops_at_the_first_test_that_fails(pool: Pool) -> None:
    tests = [InputOutput("1 2", "3"), InputOutput("1 1", "3"), InputOutput("x", "3")]
    assert run_tests(Program(SUM), tests, pool) == Result("wrong", "test 2: line 1: '2' instead of '3'", 1, 3)
    assert run_tests(Program(SUM), tests[::-1], pool).verdict == "error"


def test_a_slow_program_times_out(pool: Pool) -> None:
    slow = Program("while True: pass", limits=Limits(wall_s=0.3))
    result = run_tests(slow, [InputOutput("", "")], pool)
    assert (result.verdict, result.detail) == ("timeout", "test 1: took longer than 0.3 s")
    assert run_tests(slow, [Asserts("assert True")], pool).verdict == "timeout"


def test_functions_and_methods_are_called(pool: Pool) -> None:
    calls = [Call("add", [1, 2], 3), Call("add", ["a", "b"], "ab")]
    assert run_tests(Program("def add(a, b): return a + b"), calls, pool) == Result("pass", "", 2, 2)
    method = "class Solution:\n    def add(self, a, b): return a, b"
    assert run_tests(Program(method), [Call("add", [1, None], [1, None])], pool).verdict == "pass"
    assert run_tests(Program(method), calls, pool).verdict == "wrong"
    assert run_tests(Program("x = 1"), calls, pool).verdict == "error"


VALUES = """
import collections, datetime, decimal, fractions
values = [None, True, 0, -5, 10**5000, 1.5, float('inf'), 2j, 'é', '\\ud800', b'a', (1, [2, {3}]), {1: {'a': (2,)}},
          frozenset([1]), range(3), decimal.Decimal('1.10'), fractions.Fraction(1, 3), datetime.date(2024, 2, 29), int]
def get(i): return values[i]
def same(x, i): return type(x) is type(values[i]) and x == values[i]
"""


def test_plain_values_cross_unchanged_in_both_directions(pool: Pool) -> None:
    tests = VALUES.replace("def get", "def unused").replace("def same", "def unused2") + (
        "for i, value in enumerate(values):\n    assert type(get(i)) is type(value) and get(i) == value\n"
        "    assert same(value, i)\n"
    )
    assert run_tests(Program(VALUES), [Asserts(tests)], pool) == Result("pass", "", 1, 1)


def test_objects_stay_in_the_program_and_can_be_used_from_tests(pool: Pool) -> None:
    source = """
from collections import Counter, deque, namedtuple
class Node:
    def __init__(self, value, next=None): self.value, self.next = value, next
    def __iter__(self):
        while self: yield self.value; self = self.next
    def __len__(self): return 2
def total(node): return sum(node)
def count(text): return Counter(text)
def lazy(n): return (i * i for i in range(n))
def sort(values): values.sort()
def apply(f, x): return f(x) + 1
class TooLow(ValueError): pass
def check_low(n):
    if n < 0: raise TooLow('low', n)
"""
    tests = """
node = Node(1)
node.next = Node(2)
assert (total(node), list(node), len(node), node.next.value) == (3, [1, 2], 2, 2)
assert node != 3 and node == node
assert count('aab') == {'a': 2, 'b': 1}
assert list(lazy(3)) == [0, 1, 4]
values = [3, 1, 2]
sort(values)
assert values == [1, 2, 3]
assert apply(lambda x: x * 2, 4) == 9
try:
    check_low(-1)
    assert False
except TooLow as error:
    assert isinstance(error, ValueError) and error.args == ('low', -1)
try:
    check_low('a')
    assert False
except TypeError:
    pass
"""
    assert run_tests(Program(source), [Asserts(tests)], pool) == Result("pass", "", 1, 1)


def test_the_assertion_that_does_not_hold_is_named(pool: Pool) -> None:
    result = run_tests(Program("def f(x): return x"), [Asserts("assert f(1) == 1\nassert f(2) == 4")], pool)
    assert (result.verdict, result.detail) == ("wrong", "test 1: not so: assert f(2) == 4")


def test_test_functions_are_called_and_modules_come_from_the_programs_files(pool: Pool) -> None:
    files = {"bag/__init__.py": "", "bag/totals.py": "def total(xs): return sum(xs)"}
    tests = "from bag.totals import total\nimport bag.totals\ndef test_total():\n    assert total([1, 2]) == 3\n"
    tests += "def test_again():\n    assert bag.totals.total([]) == {}"
    assert run_tests(Program(files=files), [Asserts(tests.format(0))], pool).verdict == "pass"
    assert run_tests(Program(files=files), [Asserts(tests.format(1))], pool).verdict == "wrong"


def test_tests_that_cannot_judge_are_refused(pool: Pool) -> None:
    with pytest.raises(ValueError, match="without tests"):
        run_tests(Program(SUM), [], pool)
    with pytest.raises(SyntaxError):
        run_tests(Program(SUM), [Asserts("assert (")], pool)
    with pytest.raises(ValueError, match="stdin"):
        run_tests(Program("", "cpp"), [Asserts("assert 1")], pool)


# ---- the pool


@pytest.mark.slow  # a wall clock, so only on a quiet machine
def test_a_trivial_test_costs_at_most_30_ms(pool: Pool) -> None:
    costs = []
    for _ in range(30):
        began = time.perf_counter()
        assert run_tests(Program("print(1)"), [InputOutput("", "1")], pool).verdict == "pass"
        costs.append(time.perf_counter() - began)
    assert statistics.median(costs) < 0.030


def test_many_threads_get_their_own_answers(pool: Pool) -> None:
    with ThreadPoolExecutor(8) as threads:
        outputs = threads.map(lambda i: pool.run(Program(SUM, stdin=f"{i} {i}")).stdout, range(60))
        assert list(outputs) == [f"{2 * i}\n" for i in range(60)]


@pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bubblewrap")
def test_killed_sandboxes_lose_and_double_nothing() -> None:
    with Pool(workers=2) as pool:
        running = threading.Event()
        running.set()

        def kill() -> None:
            while running.is_set():
                time.sleep(0.15)
                children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
                for pid in (int(text) for text in children):
                    if b"bwrap" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        inner = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                        os.kill(int((inner or [pid])[0]), signal.SIGKILL)
                        break

        pool.run(Program("print(1)"))
        killer = threading.Thread(target=kill)
        killer.start()
        outputs = pool.map(lambda i: pool.run(Program(SUM, stdin=f"{i} 0")).stdout, range(60))
        running.clear()
        killer.join()
        assert outputs == [f"{i}\n" for i in range(60)]


def test_without_bubblewrap_programs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EnvironmentLacks, match="apt-get install bubblewrap"), Pool(1) as pool:
        pool.run(Program("print(1)"))


def test_plain_processes_must_be_asked_for_and_warn() -> None:
    with pytest.warns(UserWarning, match="isolates nothing"):
        pool = Pool(1, kind="process")
    with pool:
        assert pool.run(Program("print(1)")).stdout == "1\n"
        assert pool.run(Program("while True: pass", limits=Limits(wall_s=0.3))).verdict == "timeout"
        assert run_tests(Program("def f(): return 1"), [Asserts("assert f() == 1")], pool).verdict == "pass"


@pytest.mark.skipif(os.geteuid() != 0, reason="already another user than root")
def test_another_user_than_root_can_run_programs(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "src"
    code = (
        f"import sys, types\npackage = types.ModuleType('thinkery')\npackage.__path__ = ['{source}/thinkery']\n"
        "sys.modules['thinkery'] = package\nfrom thinkery.sandbox import *\nwith Pool(1) as pool:\n"
        "    print(run_tests(Program('def f(): return 1'), [Asserts('assert f() == 1')], pool).verdict)\n"
        "    print(run_tests(Program('import os; os.kill(-1, 9)'), [Asserts('assert f() == 1')], pool).verdict)\n"
        "    print(pool.run(Program('open(\"/proc/1/mem\")')).detail)\n"
    )
    python = "/usr/bin/python3"
    readable = subprocess.run([python, "-c", f"open('{source}/thinkery/sandbox/pool.py')"], user=65534, group=65534)
    if readable.returncode:
        pytest.skip("the sources cannot be read by another user")
    done = subprocess.run([python, "-B", "-c", code], user=65534, group=65534, extra_groups=[], capture_output=True)
    if b"EnvironmentLacks" in done.stderr:
        pytest.skip("this machine allows no user namespaces")
    lines = done.stdout.decode().splitlines()
    assert lines[:2] == ["pass", "error"], done.stderr
    assert "Permission denied" in lines[2]


def test_what_is_no_number_is_compared_as_text():
    assert difference("sNaN", "5")
    assert difference("NaN", "5")
    assert difference("nan", "nan") is None
