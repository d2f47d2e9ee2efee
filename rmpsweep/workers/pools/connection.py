"""A connection to a Ray cluster, or a Ray of one's own."""

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
"""A port that is not open by then stays closed; a cluster that has not answered by then does not."""
_CONNECT = "import sys; from rmpsweep.workers.pools.connection import connect; connect(sys.argv[1], 1, answer_s=None)"


def connect(address: str | None, num_workers: int, answer_s: float | None = ANSWER_S) -> None:
    """Initialise Ray; the signal handlers of this process stay as they are.

    Args:
        address: of a running cluster ("auto" or host:port); None starts Ray here, with a CPU for each worker.
        answer_s: how long a cluster may take to answer; None leaves that to Ray, which tries for a quarter of an hour.
    Raises:
        ClusterError: no such cluster, or it does not let this process in.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # on by default, and says so every time
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
    """Refuse another cluster than the one that this process uses already. Raises ClusterError.

    Args:
        address: what is asked for; None and "auto" mean whatever there is.
        head: host:port of the cluster in use.
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
    """Ray takes over SIGTERM when it starts, and keeps it when it is shut down."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            if handler is not None and signal.getsignal(each) is not handler:
                signal.signal(each, handler)


def keep_off_stdout(ray: Any) -> None:
    """Keep Ray from telling of lost workers on standard output, where `--json` has its document.

    Ray does so whatever log_to_driver says; a Ray without the function that does is left as it is.
    """
    internals: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(internals, "print_to_stdstream"):
        internals.print_to_stdstream = lambda *_, **__: None


def _check_answers(address: str, answer_s: float) -> None:
    """Connect once in a process of its own, since a connection that Ray tries to make cannot be given up.

    Raises:
        ClusterError: nothing answers as a Ray cluster does, or it does not let us in. What else there is to complain
            of, connecting says.
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
