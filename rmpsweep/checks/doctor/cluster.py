"""The checks of every node of a Ray cluster, and of who can send jobs to its dashboard."""

import contextlib
import http.client
import ipaddress
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rmpsweep.checks.doctor import probe
from rmpsweep.checks.doctor.finding import Finding
from rmpsweep.errors import RmpsweepError, UnusableError
from rmpsweep.pipeline.prepare import Prepared
from rmpsweep.storage import Location

if TYPE_CHECKING:
    from rmpsweep.workers.pools.nodes import Answer, Node, Nodes

MEMORY_BYTES = 1 << 30
"""Memory that a node should have for workers. A worker with a small network takes half of it, most of that for
torch."""
FREE_BYTES = 1 << 30
"""Disk space that a node should have for temporary files."""
CONNECT_S = 5.0
SHOWN = 4
"""A finding names at most this many nodes and gives the number of the others."""


def examine_cluster(
    address: str | None, results: Location, prepared: Prepared | None, answer_s: float
) -> Iterator[Finding]:
    """Run the checks of a cluster.

    Args:
        address: address of the cluster; None starts Ray on this machine and leaves out the check of the dashboard.
        prepared: the sweep whose data and weights every node should be able to open; None leaves these checks out.
        answer_s: how long a node may take to answer, in seconds; to open data and weights it has
            `run.setup_deadline_s` instead.
    """
    from rmpsweep.workers.pools.nodes import Nodes

    try:
        opened = Nodes(address)
    except (UnusableError, ImportError) as error:
        yield Finding("ray", False, str(error), "repair the Ray installation" if address is None else "")
        return
    with contextlib.closing(opened) as nodes:
        yield _ray(nodes, address)
        answers = nodes.ask(probe.machine, answer_s)
        yield agree("nodes", answers, lambda _: "", "each has answered", "look at them with ray status, restart them")
        answers = [answer for answer in answers if not answer.error]
        if not answers:
            return
        yield from compare_machines(probe.machine(), answers)
        reached = [answer.node for answer in answers]
        remedy = "name a folder that all nodes share, or s3://bucket/folder, with --results"
        yield _shares(nodes, reached, "node results", results, answer_s, remedy)
        yield agree(
            "node cache",
            nodes.ask(probe.write_cache, answer_s, reached),
            lambda _: "",
            "can be written",
            "set RMPSWEEP_CACHE on every node to a directory that can be written",
        )
        if prepared is not None:
            yield from _inputs(nodes, reached, prepared, answer_s)
        if address is not None:
            mode = _authentication_mode(nodes.dashboard)
            yield judge_dashboard(nodes.dashboard, mode, all(answer.value.token for answer in answers))


def agree(
    check: str, answers: "Sequence[Answer]", wrong: "Callable[[Answer], str]", detail: str, remedy: str
) -> Finding:
    """Make one finding of the answers of all nodes, which is ok if every answer is.

    Args:
        wrong: answer -> what is wrong with it, "" if nothing is.
        detail: what holds for every node if the finding is ok.
        remedy: what to do if it is not.
    """
    bad = {answer.node.name: why for answer in answers if (why := answer.error or wrong(answer))}
    many = _nodes(len(answers))
    if not bad:
        return Finding(check, True, f"{many}: {detail}")
    shown = [f"{name}: {why}" for name, why in list(bad.items())[:SHOWN]]
    more = [f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
    return Finding(check, False, f"{len(bad)} of {many}: {'; '.join([*shown, *more])}", remedy)


def compare_machines(here: probe.Machine, answers: "Sequence[Answer]") -> Iterator[Finding]:
    """Compare the nodes with this machine and with what Ray knows of them: versions, GPUs, memory and disk space."""

    def versions(answer: "Answer") -> str:
        theirs = answer.value.versions
        return ", ".join(
            f"{name} {theirs.get(name, 'missing')}, here {version}"
            for name, version in here.versions.items()
            if theirs.get(name) != version
        )

    def gpus(answer: "Answer") -> str:
        counted = answer.node.resources.get("GPU", 0)
        return "" if answer.value.gpus >= counted else f"Ray counts {counted:g} GPUs, torch sees {answer.value.gpus}"

    def memory(answer: "Answer") -> str:
        return _short(answer.node.resources.get("memory", 0), MEMORY_BYTES)

    def space(answer: "Answer") -> str:
        return _short(answer.value.free_bytes, FREE_BYTES)

    names = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    yield agree(
        "node versions",
        answers,
        versions,
        f"as here, {names}",
        "install the same on every node: one container image for all of them",
    )
    seen = sum(answer.value.gpus for answer in answers)
    yield agree(
        "node GPUs",
        answers,
        gpus,
        f"torch sees {seen} GPUs, and Ray no more",
        "install torch for the node's driver, or start Ray there with the right --num-gpus",
    )
    least = min((answer.node.resources.get("memory", 0) for answer in answers), default=0)
    yield agree(
        "node memory",
        answers,
        memory,
        f"Ray gives out {least / 2**30:.0f} GiB or more",
        "a worker needs half a GiB beside its network: take a larger node",
    )
    least = min((answer.value.free_bytes for answer in answers), default=0)
    yield agree(
        "node space",
        answers,
        space,
        f"{least / 2**30:.0f} GiB or more free for temporary files",
        "free space: Ray stops starting workers on full disks",
    )


def _short(found: float, needed: int) -> str:
    return "" if found >= needed else f"{found / 2**30:.2f} GiB, expected at least {needed / 2**30:.0f}"


def judge_dashboard(address: str, mode: str, token: bool) -> Finding:
    """Judge whether strangers can send jobs to the dashboard.

    Args:
        address: host:port where the dashboard listens, "" if there is none.
        mode: the authentication mode that the dashboard reports, "" if it cannot be reached from here.
        token: whether the nodes ask for a token.
    """
    asks = "a token is asked for" if token else "token authentication is off: whoever reaches Ray's ports can run code"
    advice = "" if token else "RAY_AUTH_MODE=token on every node"
    if not address:
        return Finding("dashboard", True, f"there is none; {asks}", advice)
    if _is_loopback(address):
        return Finding("dashboard", True, f"{address}, which only its own machine reaches; {asks}", advice)
    if mode == "token" or not mode:
        reached = "reached from here, with a token" if mode else "not reached from here"
        return Finding("dashboard", True, f"{address}, {reached}; {asks}", advice)
    return Finding(
        "dashboard",
        False,
        f"{address} takes jobs from whoever reaches it, without a token (ShadowRay, CVE-2023-48022: remote code "
        "execution, exploited at large)",
        "start Ray with --dashboard-host=127.0.0.1 and RAY_AUTH_MODE=token; go there through an SSH tunnel",
    )


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _authentication_mode(address: str) -> str:
    """Ask a dashboard for its authentication mode.

    The mode is "disabled" for dashboards that do not know the question (before Ray 2.52), and "" if the dashboard
    cannot be reached.
    """
    host, _, port = address.rpartition(":")
    if not port:
        return ""
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=CONNECT_S)
    try:
        connection.request("GET", "/api/authentication_mode")
        return str(json.loads(connection.getresponse().read())["authentication_mode"])
    except (ValueError, KeyError, TypeError):
        return "disabled"
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def _ray(nodes: "Nodes", address: str | None) -> Finding:
    total = {kind: sum(node.resources.get(kind, 0) for node in nodes.alive) for kind in ("CPU", "GPU")}
    where = "started on this machine" if address is None else f"at {address}"
    has = f"{total['CPU']:g} CPUs, {total['GPU']:g} GPUs"
    return Finding("ray", True, f"{nodes.ray.__version__} {where}: {_nodes(len(nodes.alive))}, {has}")


def _nodes(number: int) -> str:
    return "1 node" if number == 1 else f"{number} nodes"


def _shares(
    nodes: "Nodes", reached: "Sequence[Node]", check: str, place: Location, answer_s: float, remedy: str
) -> Finding:
    """Let every node write a file into a place, and check that the file can be read here."""
    if isinstance(place, Path):
        place = probe.nearest(place.absolute())
    answers = [_seen_here(answer, place) for answer in nodes.ask(partial(probe.write, place), answer_s, reached)]
    for answer in answers:
        if answer.error and answer.value:
            nodes.ask(partial(probe.remove, place, answer.value), answer_s, [answer.node])
    return agree(check, answers, lambda _: "", f"can write {place}, and it is read here", remedy)


def _seen_here(answer: "Answer", place: Location) -> "Answer":
    """Remove the file that a node wrote. If the file is not seen here, the answer gets an error."""
    if answer.error:
        return answer
    try:
        if probe.holds(place, answer.value):
            probe.remove(place, answer.value)
            return answer
        return replace(answer, error=f"what the node writes into {place} is not seen here: it has a disk of its own")
    except (RmpsweepError, OSError) as error:
        return replace(answer, error=f"what the node writes into {place} cannot be read or removed here ({error})")


def _inputs(nodes: "Nodes", reached: "Sequence[Node]", prepared: Prepared, answer_s: float) -> Iterator[Finding]:
    """Check that every node has the same data and weights as this machine.

    Weights that do not exist yet are replaced by a check of their folder, which every node has to share.
    """
    sweep, facts, weights = prepared.sweep, prepared.plan.facts, prepared.weights
    load_s = sweep.run.setup_deadline_s
    here = (facts.data_fingerprint, facts.calibration_fingerprint)
    yield agree(
        "node data",
        nodes.ask(partial(probe.fingerprints, sweep), load_s, reached),
        lambda answer: "" if answer.value == here else "other images than here",
        "the images are those that are here",
        "put the same files at data.path on every node, or on a folder that all share",
    )
    path = weights.path.absolute()
    if not path.is_file():
        remedy = "train them first, and name the file; or set RMPSWEEP_CACHE to a folder that all nodes share"
        yield _shares(nodes, reached, "node weights", path.parent, answer_s, remedy)
        return
    yield agree(
        "node weights",
        nodes.ask(partial(probe.network_digest, sweep.network.module, path), load_s, reached),
        lambda answer: "" if answer.value == weights.identity else f"{path}: another file than here",
        f"{path} is the file that is here",
        "put the weights on a folder that all nodes share, or in the image",
    )
