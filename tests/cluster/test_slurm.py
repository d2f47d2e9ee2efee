"""cluster/slurm.sh, with programs of our own in place of SLURM's."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.chaos import wait_until
from tests.helpers.manifests import SLURM

FAKES = {
    "srun": """#!/bin/bash
        while [[ $1 == --* ]]; do echo "srun $1" >>"$RECORD"; shift; done
        for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do SLURM_NODEID=$node setsid "$@" & nodes+=($!); done
        trap 'kill -TERM -- "${nodes[@]/#/-}"' TERM
        while wait "${nodes[@]}"; [[ $(jobs -r) ]]; do :; done
        """,
    "scontrol": """#!/bin/bash
        echo "scontrol $*" >>"$RECORD"
        """,
}
FAKE_RAY = {
    "python": """#!/bin/bash
        echo 127.0.0.1
        """,
    "ray": f"""#!{sys.executable}
import os, socket, sys, time
token = os.environ["RAY_AUTH_TOKEN_PATH"]
modes = [oct(os.stat(path).st_mode & 0o777) for path in (os.path.dirname(token), token)]
with open(os.environ["RECORD"], "a") as record:
    print("ray", *sys.argv[1:], file=record)
    print(os.environ["RAY_AUTH_MODE"], *modes, os.stat(token).st_size, file=record)
if "--head" in sys.argv:
    (port,) = (int(each.split("=")[1]) for each in sys.argv if each.startswith("--port="))
    server = socket.create_server(("127.0.0.1", port))
time.sleep(60)
""",
    "rmpsweep": f"""#!{sys.executable}
import os, signal, sys, time
def drain(*_):
    time.sleep(0.5)
    sys.exit(130)
signal.signal(signal.SIGTERM, drain)
with open(os.environ["RECORD"], "a") as record:
    print("rmpsweep", *sys.argv[1:], file=record)
if (code := int(os.environ["CODE"])) >= 0:
    sys.exit(code)
time.sleep(60)
""",
}


@pytest.fixture
def slurm(tmp_path):
    """Starts cluster/slurm.sh as job `id` on so many nodes; what its programs were told is in `record`."""
    folder, home, record = tmp_path / "bin", tmp_path / "home", tmp_path / "record"
    folder.mkdir()
    home.mkdir()
    number = 10**6 + os.getpid()
    processes = []

    def start(*arguments, programs, nodes=1, **environment):
        for name, text in programs.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        path = f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(home), "RECORD": str(record)}
        job = {"SLURM_JOB_ID": str(number), "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_CPUS_PER_TASK": "1"}
        processes.append(
            subprocess.Popen(["bash", SLURM, *arguments], env=os.environ | own | job | environment, cwd=tmp_path)
        )
        return processes[-1]

    start.id, start.record = number, record
    yield start
    for process in processes:
        process.kill()
        process.wait()
    assert list(home.iterdir()) == []  # the token is gone
    assert list(Path("/tmp").glob(f"rmpsweep-{number}-*")) == []
    assert f"rmpsweep-{number}-" not in command_lines()


def command_lines():
    """Those of all processes."""
    text = ""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text += path.read_text(errors="replace")
    return text


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 3])
def test_slurm_passes_arguments_on_and_the_exit_code_back(slurm, code):
    arguments = ("my sweep.yaml", "--results", "r", "--set", "grid.alpha=[0.5, 1.0]")
    job = slurm(*arguments, programs=FAKES | FAKE_RAY, nodes=2, CODE=str(code))
    assert job.wait(60) == code
    lines = slurm.record.read_text().splitlines()
    port = 20000 + slurm.id % 5000 * 2
    assert " ".join(["rmpsweep launch", *arguments, "--address", f"127.0.0.1:{port}"]) in lines
    head, worker = sorted((line for line in lines if line.startswith("ray ")), key=lambda line: "--head" not in line)
    assert f"--port={port} --ray-client-server-port={port + 1} --include-dashboard=false" in head
    assert f"--address=127.0.0.1:{port}" in worker
    assert lines.count("token 0o700 0o600 64") == 2
    assert not [line for line in lines if line.startswith("scontrol")]


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "restarts", "requeued"), [("USR1", 0, 1), ("USR1", 20, 0), ("TERM", 0, 0)])
def test_slurm_drains_before_the_time_limit_and_goes_on_later(slurm, signum, restarts, requeued):
    job = slurm("s.yaml", programs=FAKES | FAKE_RAY, CODE="-1", SLURM_RESTART_COUNT=str(restarts))
    wait_until(lambda: slurm.record.exists() and "rmpsweep launch" in slurm.record.read_text())
    job.send_signal(getattr(signal, f"SIG{signum}"))
    assert job.wait(30) == 130
    assert slurm.record.read_text().splitlines().count(f"scontrol requeue {slurm.id}") == requeued


@pytest.mark.slow
def test_slurm_does_not_wait_for_a_ray_that_has_ended(slurm):
    job = slurm("s.yaml", programs=FAKES | FAKE_RAY | {"ray": "#!/bin/bash\nexit 1\n"}, CODE="4")
    assert job.wait(30) == 4


PATIENT = f"""#!{sys.executable}
import os, sys, time
import ray
ray.init(address=sys.argv[-1], log_to_driver=False, configure_logging=False)
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.1)
ray.shutdown()
os.execv({str(Path(sys.executable).with_name("rmpsweep"))!r}, sys.argv)
"""
"""rmpsweep, once there are two nodes: a sweep this small would be done before."""


@pytest.mark.ray
@pytest.mark.soak
def test_slurm_runs_a_sweep_on_two_nodes(slurm, write_sweep, tmp_path):
    options = ("--results", tmp_path / "results", "--mlflow", "none", "--limit", "40", "--actors", "2")
    programs = FAKES | {"rmpsweep": PATIENT}
    job = slurm(write_sweep(), *options, programs=programs, nodes=2, RMPSWEEP_CACHE=str(tmp_path / "cache"))
    assert job.wait(240) == 0
    assert (tmp_path / "results" / "report.html").is_file()
