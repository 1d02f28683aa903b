"""Running code that nobody has read: programs that models write, under limits, each in a fresh process.

    run_program(Program("print(6 * 7)")).stdout                                    # "42\\n"
    run_tests(Program("print(input())"), [InputOutput("hi", "hi")]).verdict        # "pass"

    pool.py           worker sandboxes on this side: started warm, one program at a time each, replaced after a failure
    bubblewrap.py     the command line that builds a sandbox; seccomp.py: the system calls it refuses
    inside/           what runs in the sandbox: zygote, supervisor, the program's process, the tests' process
    testing.py        tests and verdicts; compare.py: when two outputs are the same

What a program meets, on Linux with bubblewrap (`apt-get install bubblewrap`):
- namespaces of its own: no network (not even sockets but AF_UNIX), no other process to see or signal, no System V IPC;
- a root with nothing but Python's standard library, the C libraries and g++, read-only; an empty environment;
- an empty /tmp of limited size, which no later program sees; no capabilities, no new privileges, seccomp;
- limits on CPU, wall-clock time, memory (per process and of all together), processes, file size, files and output;
- after it ends, every process of the sandbox but the zygote is killed until the kernel says there is none left.
The outputs that stdin tests expect never enter the sandbox. Tests written as assertions run in a process of their own
that the program can neither signal nor trace as root (as another user: not trace); calls and results cross a socket
as plain data, so that no overridden `__eq__`, patched builtin, exit or printed marker reaches the comparison.

What this does NOT cover:
- holes in the kernel, in bubblewrap or in the hardware; side channels (timing, caches, load); it is no virtual machine;
- memory between two looks, 20 ms apart: a program may hold more than its total for that long;
- a program that recognises the inputs of a test: it may answer those alone, as any program may;
- arguments changed in place: what a call makes of a list, dict or set is seen by the tests, as in one process, so that
  `assert f(xs) == sorted(xs)` holds for an f that empties xs;
- other programs on the same machine: it is slowed by them, and wall-clock limits are not CPU limits;
- run by another user than root, the program and its tests share a user id: it may end its tests (judged an error), not
  read or alter them;
- kind="process": no isolation at all. Time, memory and output are limited, and that is all: a program may read and
  write whatever the user running it may, reach the network and leave processes behind. It warns, and is never chosen
  by itself.
Not available to programs: packages beside the standard library, subprocesses of a shell, /dev/shm, data files.
"""

from thinkery.sandbox.pool import Pool, run_program, shared_pool
from thinkery.sandbox.program import Limits, Outcome, Program
from thinkery.sandbox.testing import Asserts, Call, InputOutput, Result, run_tests

__all__ = [
    "Asserts",
    "Call",
    "InputOutput",
    "Limits",
    "Outcome",
    "Pool",
    "Program",
    "Result",
    "run_program",
    "run_tests",
    "shared_pool",
]
