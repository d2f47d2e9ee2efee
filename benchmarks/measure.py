"""How time and memory are measured."""

import ctypes
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.contenders import Contender, Form, make
from benchmarks.networks import CASES, prepare

PROBE_S = 0.25
"""A form is repeated for at least this time in seconds, and at least twice, after a first run that does not count."""

TARGET_S = 1.0
"""A contender that does the work of a case in less than this time in seconds takes more steps, up to MAX_STEPS."""

MAX_STEPS = 256


def seconds(work: Callable[[], object]) -> float:
    """The seconds that one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def probe(contender: Contender, images: Tensor) -> Form:
    """Find the form that is fastest per image-step. If there is only one form, nothing is run."""
    if len(contender.forms) == 1:
        return contender.forms[0]

    def cost(form: Form) -> float:
        steps = max(form.chunk, 4)
        times = [seconds(lambda: contender.run(images[: form.batch], steps, form)) for _ in range(2)][1:]
        while len(times) < 2 or sum(times) < PROBE_S:
            times.append(seconds(lambda: contender.run(images[: form.batch], steps, form)))
        return min(times) / (form.batch * steps)

    return min(contender.forms, key=cost)


def enough_steps(contender: Contender, images: Tensor, form: Form, steps: int) -> int:
    """Double `steps` until one run takes at least TARGET_S, up to MAX_STEPS; a first run that compiles is not timed."""
    contender.run(images, 4, form)
    spent = seconds(lambda: contender.run(images, steps, form))
    doublings = max(0, math.ceil(math.log2(TARGET_S / spent)))
    return min(steps * 2**doublings, MAX_STEPS)


def alternate(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The seconds of every work in every round. In a round each runs once, in turn, so that drift affects all alike."""
    times: dict[str, list[float]] = {label: [] for label in works}
    for _ in range(rounds):
        for label, work in works.items():
            times[label].append(seconds(work))
    return times


def median_ratio(own: list[float], other: list[float]) -> float:
    """The median over the rounds of own / other."""
    return statistics.median(a / b for a, b in zip(own, other, strict=True))


def peak_bytes(case: str, label: str, form: Form, num_images: int, steps: int) -> int:
    """Measure how many bytes a contender's run adds to the resident memory at its peak, in a process of its own."""
    work = json.dumps([form.batch, form.chunk, form.channels_last, num_images, steps])
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-m", "benchmarks", "--threads", threads, "--memory", case, label, work]
    before, peak = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return peak - before


def answer_memory(case_name: str, label: str, work: str) -> str:
    """The child process's part of `peak_bytes`: resident bytes before the run and at its peak, as JSON.

    The peak is the kernel's VmHWM (Linux). Unlike ru_maxrss it can be reset to the present use once the contender has
    been built.
    """
    *form, num_images, steps = json.loads(work)
    case = CASES[case_name]
    prepared = prepare(case, num_images)
    contender = make(label, case, prepared)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    contender.run(prepared.images, steps, Form(*form))
    return json.dumps([before, _resident("VmHWM")])


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
