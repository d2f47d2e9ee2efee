"""Connections to MLflow: which tracking URIs are allowed, how long to wait, and what a failure means for the user."""

import contextlib
import functools
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmpsweep.errors import InputError, StorageError, TrackingError
from rmpsweep.storage import write_first

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CONNECT_TIMEOUT_S = 10
_ENVIRONMENT = {
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Environment variables that MLflow reads; those that the user has set stay as they are. With these values, MLflow
gives up a server that does not answer after about 2 minutes."""

_DATABASE = r"sqlite:///(?!/*:memory:$).*[^/]|(postgresql|mysql)(\+\w+)?://.+"
_SERVER = r"https?://([^/@\s]*@)?([\w.-]+|\[[\da-fA-F:.]+\])(:\d+)?(/\S*)?|databricks(://.+)?"


def check_uri(tracking_uri: str) -> None:
    """Check the form of a tracking URI without connecting to it and without importing mlflow.

    Raises:
        InputError: the URI names no SQL database, MLflow server or Databricks. MLflow no longer keeps runs in
            directories of files.
    """
    if re.fullmatch(f"{_DATABASE}|{_SERVER}", tracking_uri):
        return
    is_directory = tracking_uri.startswith("file:") or (tracking_uri and ":" not in tracking_uri)
    directory = tracking_uri.removeprefix("file:").removeprefix("//").rstrip("/")
    hint = f"; MLflow no longer keeps runs in directories: use sqlite:///{directory}/mlflow.db" if is_directory else ""
    raise InputError(
        f"mlflow tracking URI: got {without_password(tracking_uri)!r}, expected sqlite:///<file>, "
        f"http(s)://<host>:<port>, postgresql://…, mysql://… or databricks{hint}"
    )


@contextlib.contextmanager
def connected(
    tracking_uri: str, artifacts: Sequence[Path], remedy: str, store: str | None = None
) -> Iterator[tuple["MlflowClient", str | None]]:
    """Connect to MLflow.

    The value of the context is a client, and the place where artifacts of a new experiment go (a URI, None if the
    server decides).

    Args:
        artifacts: the files that will be logged as artifacts.
        remedy: what the user can do if MLflow cannot be used; a sentence at the end of the error's message.
        store: URI of the folder for artifacts if the tracking URI is a database other than SQLite; default is a folder
            beside the artifacts.
    Raises:
        InputError: the URI is malformed. TrackingError: MLflow or its database raised an error within the context.
    """
    check_uri(tracking_uri)
    _set_environment()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        location = None if is_server(tracking_uri) else _reach_database(tracking_uri, artifacts, store)
        yield MlflowClient(tracking_uri=tracking_uri), location
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        reason = _refusal(tracking_uri, getattr(error, "error_code", "")) or str(error).strip().partition("\n")[0]
        where = without_password(tracking_uri)
        raise TrackingError(f"MLflow at {where} cannot be used: {without_password(reason)}. {remedy}") from error


def get_ready(tracking_uri: str) -> None:
    """Load what logging to this URI needs, which takes seconds, without connecting to it."""
    _set_environment()
    import mlflow  # noqa: F401

    if tracking_uri.startswith("sqlite:"):
        _empty_database()


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@functools.cache
def _empty_database() -> bytes:
    """The SQLite file of an MLflow without runs.

    MLflow makes its tables in a hundred steps, each of which waits for the disk. Here it makes them in memory.
    """
    from mlflow import MlflowClient

    uri = "file:rmpsweep-empty?mode=memory&cache=shared"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as database, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SQLAlchemy will use another pool of connections one day; any will do
        MlflowClient(tracking_uri=f"sqlite:///{uri}&uri=true").search_experiments()
        return database.serialize()


def _refusal(tracking_uri: str, error_code: str) -> str | None:
    """Say what to set or whom to ask if a server with accounts has refused (401, 403); None for any other error."""
    from mlflow.utils.credentials import read_mlflow_creds

    names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"
    user = read_mlflow_creds().username or (tracking_uri.partition("://")[2].rpartition("@")[0].partition(":")[0])
    if error_code == "PERMISSION_DENIED":
        return f"the server does not let user {user!r} do this: ask its administrator for the permission EDIT"
    if error_code != "UNAUTHENTICATED":
        return None
    if user or os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return f"the server does not know user {user!r} with the password or token given: check {names}"
    return f"the server requires a user, and none is given: set {names}"


def experiment_id(client: "MlflowClient", name: str, location: str | None) -> str:
    """Return the id of the experiment of that name, which is made if there is none."""
    experiment = client.get_experiment_by_name(name)
    found: str = experiment.experiment_id if experiment else client.create_experiment(name, location)
    return found


def _reach_database(tracking_uri: str, artifacts: Sequence[Path], store: str | None) -> str | None:
    """Connect to the database once, since MLflow by itself would try for minutes.

    Returns:
        URI of the folder for artifacts: beside the SQLite file; for another database `store`, or else beside the first
        artifact. None without artifacts.
    """
    from sqlalchemy import create_engine, inspect, make_url

    url = make_url(tracking_uri)
    is_file = url.get_backend_name() == "sqlite"
    if is_file:
        artifacts = [Path(str(url.database))]
        artifacts[0].parent.mkdir(parents=True, exist_ok=True)
        if not artifacts[0].exists() and not url.query:
            with contextlib.suppress(StorageError):  # MLflow itself will say what is the matter
                write_first(artifacts[0], _empty_database(), stays=lambda _: True, patience_s=0)
    engine = create_engine(url, connect_args={"timeout" if is_file else "connect_timeout": _CONNECT_TIMEOUT_S})
    try:
        inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if store is not None and not is_file:
        return store
    return (artifacts[0].resolve().parent / "mlartifacts").as_uri() if artifacts else None


def is_server(tracking_uri: str) -> bool:
    """Whether a valid tracking URI names a server, which takes several requests at a time, and not a database."""
    return not re.fullmatch(_DATABASE, tracking_uri)


def without_password(text: str) -> str:
    """The text, a URI or a message that contains one, with the password replaced by stars."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)
