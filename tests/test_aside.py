"""Work in a process of its own: what it answers, and that it never outlives the process that asked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rmpsweep.aside import Aside, Lost
from rmpsweep.errors import NetworkError

CODE = """
import os, signal, sys, time
from rmpsweep.aside import Aside
aside = Aside()
aside.ask(os.getpid)
print(aside.answer(), flush=True)
aside.ask(time.sleep, 60)
time.sleep(60)
"""


class Odd(Exception):
    """Cannot be made from its message alone, so it cannot be pickled."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} {second}")


def refuse() -> None:
    raise NetworkError("conv1: no")


def fail(odd: bool) -> None:
    raise Odd(1, 2) if odd else ZeroDivisionError("in the other process")


def answer(function, *arguments):
    with Aside() as aside:
        aside.ask(function, *arguments)
        return aside.answer()


def test_answers_come_from_another_process_and_only_the_last_counts():
    with Aside() as aside:
        aside.ask(fail, False)
        aside.ask(os.getpid)
        assert aside.answer() not in (os.getpid(), None)


def test_an_error_of_ours_comes_as_it_is_and_others_with_their_traceback():
    with pytest.raises(NetworkError, match=r"^conv1: no$") as ours:
        answer(refuse)
    assert not hasattr(ours.value, "__notes__")
    with pytest.raises(ZeroDivisionError) as other:
        answer(fail, False)
    assert "in fail" in other.value.__notes__[0]
    with pytest.raises(RuntimeError, match="Odd: 1 2"):
        answer(fail, True)


def test_a_process_that_ends_is_lost():
    with pytest.raises(Lost, match="exit code -9"):
        answer(kill_itself)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_ctrl_c_is_for_the_process_that_asked():
    with Aside() as aside:
        aside.ask(os.getpid)
        os.kill(aside.answer(), signal.SIGINT)
        aside.ask(os.getpid)
        assert aside.answer()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_asked(how):
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout
        pid = int(asking.stdout.readline())
        asking.send_signal(how)
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.02)
