"""Programs that attack their sandbox, its neighbours or their own tests; none may gain anything, all must end."""

from __future__ import annotations

import os
import time
from inspect import cleandoc
from pathlib import Path

import pytest

from thinkery.sandbox import Asserts, Limits, Outcome, Pool, Program, Result, run_tests

SMALL = Limits(cpu_s=1, wall_s=3, memory_mb=256)
SHORT = Limits(cpu_s=1, wall_s=0.5, memory_mb=256)
AS_ROOT = os.geteuid() == 0


def run(pool: Pool, source: str, limits: Limits = SMALL) -> Outcome:
    return pool.run(Program(cleandoc(source), stdin="x\n", limits=limits))


def judge(pool: Pool, source: str, tests: str = "assert f(20) == 400", entry_point: str = "") -> Result:
    return run_tests(Program(cleandoc(source), limits=SMALL), [Asserts(tests, entry_point)], pool)


# ---- resources


def test_a_fork_bomb_ends_and_leaves_nothing(pool: Pool) -> None:
    bomb = """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """
    assert run(pool, bomb, SHORT).verdict == "timeout"
    count = "import os; print(sum(name.isdigit() for name in os.listdir('/proc')))"
    assert {run(pool, count).stdout for _ in range(2)} == {"3\n"}  # the zygote, the supervisor and the program


def test_no_more_processes_than_allowed(pool: Pool) -> None:
    source = """
        import os, time
        for n in range(1000):
            print(n, flush=True)
            if os.fork() == 0:
                time.sleep(9)
    """
    ended = run(pool, source)
    assert (ended.verdict, "BlockingIOError" in ended.detail) == ("error", True)
    assert int(ended.stdout.split()[-1]) <= SMALL.processes


def test_memory_beyond_the_limit_is_an_error(pool: Pool) -> None:
    ended = run(pool, "x = bytearray(300 << 20)")
    assert (ended.verdict, "MemoryError" in ended.detail) == ("error", True)


def test_memory_of_all_processes_together_is_limited(pool: Pool) -> None:
    source = """
        import os, time
        for _ in range(4):
            if os.fork() == 0:
                break
        x = bytearray(b'x' * (90 << 20))
        time.sleep(9)
    """
    assert run(pool, source).detail == "used too much memory"


def test_the_disk_cannot_be_filled(pool: Pool) -> None:
    assert "No space left" in run(pool, "for i in range(99): open(f'/tmp/{i}', 'wb').write(bytes(8 << 20))").detail
    assert run(pool, "open('big', 'wb').write(bytes(17 << 20))").detail == "ended by SIGXFSZ"
    assert run(pool, "import os; print(os.listdir('/tmp'))").stdout == "[]\n"


def test_endless_files_are_stopped(pool: Pool) -> None:
    assert run(pool, "for i in range(10**9): open(str(i), 'w').close()").detail == "made too many files"


def test_endless_output_is_stopped(pool: Pool) -> None:
    ended = run(pool, "while True: print('x' * 10000)")
    assert (ended.verdict, ended.detail) == ("error", "wrote too much output")
    ended = run(pool, "import sys\nwhile True: sys.stderr.write('x' * 10000)")
    assert ended.detail == "wrote too much output"


ENDLESS = {
    "a loop": "while True: pass",
    "a sleep": "import time; time.sleep(60)",
    "every signal ignored": """
        import signal
        for number in {*range(1, 65)} - {9, 19, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass
    """,
    "stopped": "import os; os.kill(os.getpid(), 19)",
    "in a session of its own": """
        import os
        if os.fork() == 0:
            os.setsid()
        while True:
            pass
    """,
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_what_does_not_end_is_ended(pool: Pool, source: str) -> None:
    began = time.monotonic()
    assert run(pool, source, SHORT).verdict == "timeout"
    assert time.monotonic() - began < 3


def test_cpu_time_is_limited_by_itself(pool: Pool) -> None:
    ended = run(pool, "while True: pass", Limits(cpu_s=1, wall_s=30))
    assert (ended.verdict, ended.detail) == ("timeout", "used more than 1 s of CPU")


def test_deep_recursion_is_an_error(pool: Pool) -> None:
    assert "RecursionError" in run(pool, "def f(): f()\nf()").detail
    through_c = """
        import sys
        sys.setrecursionlimit(10**9)
        class A:
            def __repr__(self):
                return repr([self])
        repr(A())
    """
    assert run(pool, through_c, SHORT).verdict in ("error", "timeout")


# ---- neighbours and the machine


def test_nobody_outside_a_program_can_be_signalled(pool: Pool) -> None:
    source = """
        import os
        for pid in (1, os.getppid(), -1):
            for number in (2, 9, 15, 19):
                try:
                    os.kill(pid, number)
                except OSError as error:
                    print(error.strerror)
    """
    ended = run(pool, source)
    if AS_ROOT:  # another user's program has the user id of its supervisor, and may end its own sandbox
        refused = ended.stdout.splitlines()
        assert refused[:8] == ["Operation not permitted"] * 8
        assert set(refused) <= {"Operation not permitted", "No such process"}
    assert run(pool, "print(1)").stdout == "1\n"


def test_a_process_that_hides_from_its_program_is_ended_with_it(pool: Pool) -> None:
    hide = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
            os._exit(0)
        print('done')
    """
    assert run(pool, hide).stdout == "done\n"
    count = "import os; print(sum(name.isdigit() for name in os.listdir('/proc')))"
    assert {run(pool, count).stdout for _ in range(2)} == {"3\n"}


def test_secrets_cannot_be_read(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("s3cret")
    monkeypatch.setenv("API_KEY", "s3cret")
    paths = [str(tmp_path), "/etc/shadow", "/etc/passwd", "/root/.ssh", "/home", "/var", "/sys", "/usr/bin/bash"]
    source = f"""
        import os
        print(os.environ.get('API_KEY'), [path for path in {paths!r} if os.path.exists(path)])
        for pid in (1, os.getppid()):
            for name in ('environ', 'mem', 'maps', 'fd', 'root'):
                try:
                    path = f'/proc/{{pid}}/{{name}}'
                    print(os.listdir(path) if name in ('fd', 'root') else open(path, 'rb').read(1))
                except OSError as error:
                    print(error.strerror)
    """
    first, *others = run(pool, source).stdout.splitlines()
    assert first == "None []"
    assert others == ["Permission denied"] * 10


def test_only_its_own_folder_can_be_written(pool: Pool) -> None:
    source = """
        import os, sys
        os.symlink('/usr/lib', 'link')
        paths = ['/x', '/usr/lib/x', '/etc/x', '/dev/x', '/dev/shm/x', '/proc/sys/kernel/hostname', '/code/x', 'link/x']
        for path in [*paths, sys.executable, os.__file__]:
            try:
                open(path, 'w')
                print('wrote', path)
            except OSError:
                pass
        open('own', 'w').write('ok')
        print(open('own').read())
    """
    assert run(pool, source).stdout == "ok\n"
    assert run(pool, "import os; print(os.listdir('.'))").stdout == "[]\n"


def test_a_folder_that_cannot_be_emptied_costs_the_sandbox_and_nothing_else(pool: Pool) -> None:
    assert (
        run(pool, "import os\nfor _ in range(900):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)").verdict == "pass"
    )
    for _ in range(3):
        assert run(pool, "import os; print(os.listdir('/tmp'))").stdout == "[]\n"


def test_there_is_no_network(pool: Pool) -> None:
    source = """
        import socket
        for family, address in ((2, ('127.0.0.1', 80)), (10, ('::1', 80)), (40, (2, 1))):
            try:
                socket.socket(family).connect(address)
                print('connected')
            except OSError as error:
                print(error.errno)
        a, b = socket.socketpair()
        a.send(b'x')
        print(b.recv(1))
    """
    assert run(pool, source).stdout == "97\n97\n97\nb'x'\n"  # 97: address family not supported


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_privileges_cannot_be_gained(pool: Pool) -> None:
    source = """
        import ctypes, os
        libc = ctypes.CDLL(None)
        calls = {'unshare': (272, 0x10000000), 'mount': (165, 0, b'/tmp', b'tmpfs', 0, 0), 'ptrace': (101, 16, 1, 0, 0),
                 'bpf': (321, 0, 0, 0), 'shmget': (29, 1, 4096, 0o1777), 'prlimit': (302, 1, 7, 0, 0),
                 'keyctl': (250, 0, -3, 1), 'chroot': (161, b'/tmp'), 'clone': (56, 0x10000000, 0, 0, 0, 0)}
        print([name for name, call in calls.items() if libc.syscall(*call) != -1])
        for become in (os.setuid, os.setgid):
            try:
                become(0)
                print('became root')
            except OSError:
                pass
        wanted = ('CapPrm', 'CapEff', 'NoNewPrivs', 'Seccomp:')
        print([line.split()[1] for line in open('/proc/self/status') if line.startswith(wanted)])
    """
    assert run(pool, source).stdout == "[]\n['0000000000000000', '0000000000000000', '1', '2']\n"


# ---- the tests


REPORT = '{"verdict": "pass", "detail": "", "asserts": 9}'
FORGERIES = {
    "exit while loading": "exit(0)",
    "_exit while loading": "import os; os._exit(0)",
    "exit when called": "import sys\ndef f(n): sys.exit(0)",
    "_exit when called": "import os\ndef f(n): os._exit(0)",
    "exit at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(n): return 1",
    "always equal": "class E:\n    def __eq__(self, other): return True\ndef f(n): return E()",
    "an int that is always equal": "class E(int):\n    def __eq__(self, other): return True\ndef f(n): return E(1)",
    "a list that is always equal": "class E(list):\n    def __eq__(self, other): return True\ndef f(n): return E()",
    "a false class": "class E:\n    __class__ = int\n    def __eq__(self, o): return True\ndef f(n): return E()",
    "patched builtins": "import builtins\nbuiltins.AssertionError = int\nbuiltins.print = exit\ndef f(n): return 1",
    "patched modules": f"import sys, json\njson.dumps = lambda *a: '{REPORT}'\nsys.modules.clear()\ndef f(n): return 1",
    "tracing": "import sys\ndef skip(*event): return skip\nsys.settrace(skip)\ndef f(n): return 1",
    "printed success": f"print('{REPORT}')\ndef f(n): return 1",
    "written to every descriptor": f"""
        import os
        for fd in range(64):
            try:
                os.write(fd, b'{REPORT}')
            except OSError:
                pass
        def f(n):
            return 1
    """,
    "half a reply": """
        import os
        def f(n):
            for fd in range(3, 64):
                try:
                    os.write(fd, bytes([0, 0, 0, 14]) + b'{"value": 400')
                except OSError:
                    pass
            os._exit(0)
    """,
    "killing everyone": """
        import os
        try:
            os.kill(-1, 9)
        except OSError:
            pass
        def f(n):
            return 1
    """,
    "an assertion of its own": "def f(n): raise AssertionError",
    "nothing defined": "",
    "a syntax error": "def f(n) return 400",
    "a check of its own": "def check(candidate): pass\ndef f(n): return 1",
}


@pytest.mark.parametrize("source", FORGERIES.values(), ids=FORGERIES)
def test_success_cannot_be_forged(pool: Pool, source: str) -> None:
    check = "def check(candidate):\n    assert candidate(20) == 400"
    for result in (judge(pool, source), judge(pool, source, check, "f")):
        assert result.verdict in ("wrong", "error")
        assert result.detail


def test_a_program_cannot_replace_the_builtins_and_modules_its_tests_use(pool: Pool) -> None:
    tests = "def check(f):\n    assert abs(f(3) - 9) < 1e-6\n    assert set([f(1)]) == set([1])"
    cheat = "abs = lambda x: 0\nset = lambda x: 0\ndef f(n): return n"
    assert judge(pool, cheat, tests, "f").verdict == "wrong"
    assert judge(pool, cheat, "assert abs(f(3) - 9) < 1e-6").verdict == "wrong"
    fake = "class math:\n    isclose = lambda *a: True\ndef f(n): return n"
    assert judge(pool, fake, "assert math.isclose(f(3), 9)").verdict == "error"
    assert judge(pool, "def sum(a, b): return a + b", "assert sum(1, 2) == 3").verdict == "pass"


def test_modules_of_a_program_never_run_among_its_tests(pool: Pool) -> None:
    files = {"shop.py": "import os\nos._exit(0)", "helper.py": "import builtins\nbuiltins.abs = lambda x: 0"}
    for tests in ("import shop\nassert shop", "import helper\nassert abs(1) == 0"):
        assert run_tests(Program(files=files), [Asserts(tests)], pool).verdict in ("wrong", "error")


def test_tests_are_not_to_be_found_in_the_memory_of_a_program(pool: Pool) -> None:
    search = """
        import ctypes, re
        ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE, or its own maps would be closed to it
        found = regions = 0
        for line in open('/proc/self/maps'):
            low, high = (int(number, 16) for number in line.split()[0].split('-'))
            if 'rw' in line:
                with open('/proc/self/mem', 'rb', 0) as memory:
                    memory.seek(low)
                    found += bool(re.search(b'NEEDLE[-]IN[-]THE', memory.read(high - low)))
                    regions += 1
        def f(kind):
            return found if kind else regions
    """
    tests = "needle = 'NEEDLE-IN-THE-TESTS'\nassert f(0) > 10\nassert f(1) == 0"
    for _ in range(3):  # neither its own tests nor those of the program before
        assert judge(pool, search, tests) == Result("pass", "", 1, 1)


def test_tests_that_assert_nothing_are_an_error_and_not_a_pass(pool: Pool) -> None:
    right = "def f(n): return n * n"
    assert judge(pool, right).verdict == "pass"
    assert judge(pool, right, "x = f(2)").verdict == "error"
    assert judge(pool, right, "def check(candidate):\n    assert candidate(2) == 4").verdict == "error"
