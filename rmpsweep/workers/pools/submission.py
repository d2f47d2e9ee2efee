"""Send a command to a cluster as a Ray job, which goes on without the machine that sent it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rmpsweep.errors import ClusterError


@dataclass(frozen=True)
class Submission:
    """A Ray job."""

    submission_id: str
    status: str
    """The status in Ray, such as RUNNING."""
    is_new: bool
    """False if the same command had been sent before and has not ended."""


def submit(address: str, command: Sequence[str], name: str, folder: Path) -> Submission:
    """Send a command, unless a job of the same name has been sent and has not ended.

    Args:
        address: the address of the cluster's dashboard, http://HOST:PORT.
        command: the command and its arguments.
        name: identifies the command. The job gets this name, or NAME-2, NAME-3 … if jobs of that name have ended.
        folder: the folder whose contents become the working directory of the command.
    Raises:
        ClusterError: the cluster cannot be reached or accepts no jobs.
    """
    try:
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(address)
        known = {job.submission_id: job.status for job in client.list_jobs()}
        number, submission_id = 1, name
        while submission_id in known:
            if not known[submission_id].is_terminal():
                return Submission(submission_id, str(known[submission_id].value), False)
            number += 1
            submission_id = f"{name}-{number}"
        client.submit_job(
            entrypoint=shlex.join(command), submission_id=submission_id, runtime_env={"working_dir": str(folder)}
        )
        return Submission(submission_id, str(client.get_job_status(submission_id).value), True)
    except ImportError as error:
        raise ClusterError(f"jobs are sent by ray[default]: pip install 'rmpsweep[cluster]' ({error})") from error
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(
            f"{address}: takes no jobs ({error}); it should be the dashboard's address, such as "
            "http://127.0.0.1:8265 at the end of an SSH tunnel, and RAY_AUTH_TOKEN set if it asks for one"
        ) from error
