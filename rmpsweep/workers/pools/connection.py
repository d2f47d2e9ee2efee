"""Connect to a Ray cluster, or start Ray on this machine."""

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from rmpsweep.environment import usable_cpus
from rmpsweep.errors import ClusterError

CONNECT_S, ANSWER_S = 10.0, 30.0
"""Seconds after which a port counts as closed, and a cluster as not answering."""
_CONNECT = "import sys; from rmpsweep.workers.pools.connection import connect; connect(sys.argv[1], 1, answer_s=None)"


def connect(address: str | None, num_workers: int, answer_s: float | None = ANSWER_S) -> None:
    """Initialise Ray, and leave the signal handlers of this process as they are.

    Args:
        address: the address of a running cluster ("auto" or host:port); None starts Ray on this machine.
        num_workers: a Ray that is started has at least this many CPUs, and at least those of the machine.
        answer_s: how long a cluster may take to answer; None leaves that to Ray, which tries for a quarter of an hour.
    Raises:
        ClusterError: there is no such cluster, or it does not let this process in.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it reports the default at every start
    keep_off_stdout(ray)
    local = {} if address else {"num_cpus": max(num_workers, usable_cpus()), "include_dashboard": False}
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address or ""
    try:
        if target := re.fullmatch(r"(?:ray://)?(.+):(\d+)", named):
            socket.create_connection((target[1].strip("[]"), int(target[2])), CONNECT_S).close()
        if address is not None and answer_s is not None:
            _check_answers(address, answer_s)
        with _keeping_signal_handlers():
            ray.init(
                address=address or "local", log_to_driver=False, logging_level="error", configure_logging=False, **local
            )
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        where = address or "this machine"
        raise ClusterError(f"Ray on {where} cannot be used: {error}; or run with --inline, without Ray") from error


def check_connected(address: str | None, head: str) -> None:
    """Check that an address is that of the cluster which this process uses already.

    Args:
        address: the address that is asked for; None and "auto" accept any cluster.
        head: host:port of the cluster in use.
    Raises:
        ClusterError: the address is that of another cluster.
    """
    if address in (None, "auto", head):
        return
    host, _, port = str(address).removeprefix("ray://").rpartition(":")
    with contextlib.suppress(OSError):
        if f"{socket.gethostbyname(host.strip('[]'))}:{port}" == head:
            return
    raise ClusterError(
        f"{address}: this process uses the Ray cluster {head} already; leave the address out to compute there, or call "
        "ray.shutdown() first"
    )


@contextlib.contextmanager
def _keeping_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers at the end: Ray takes over SIGTERM when it starts, and keeps it after shutdown."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            if handler is not None and signal.getsignal(each) is not handler:
                signal.signal(each, handler)


def keep_off_stdout(ray: Any) -> None:
    """Keep Ray from printing messages about lost workers to standard output, where `--json` prints its lines.

    Ray prints these messages whatever `log_to_driver` is. A version of Ray without the function that prints them is
    left as it is.
    """
    internals: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(internals, "print_to_stdstream"):
        internals.print_to_stdstream = lambda *_, **__: None


def _check_answers(address: str, answer_s: float) -> None:
    """Connect once in a process of its own, because an attempt of Ray to connect cannot be broken off.

    Raises:
        ClusterError: no Ray cluster has answered within `answer_s`, or it asks for a token. Other failures are left to
            the real connection, which reports them.
    """
    command = [sys.executable, "-c", _CONNECT, address]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=answer_s)
    except subprocess.TimeoutExpired as late:
        said = (late.stderr or b"").decode(errors="replace")
        reason = (
            "it asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on its nodes"
            if "InvalidAuthToken" in said
            else "give the address of `ray start --head`, whose port is 6379 by default, not the dashboard's"
        )
        raise ClusterError(f"{address}: no Ray cluster has answered within {answer_s:.0f} s; {reason}") from None
