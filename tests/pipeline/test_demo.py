"""The quickstart, whose weights come with the package: its figures are the same on every number of threads."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

OPTIONS = ["--limit", "8", "--set", "time_steps=[4,8]", "--inline", "--mlflow", "none"]


def launched(results, *options, threads):
    command = [sys.executable, "-m", "rmpsweep", "launch", "quickstart", *OPTIONS, "--results", str(results), *options]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "RMPSWEEP_CACHE": str(results.parent / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_demo_prints_one_digest_whatever_the_number_of_threads(tmp_path):
    document = json.loads(launched(tmp_path / "one", "--json", threads=1))
    table = (tmp_path / "one" / "predictions.parquet").read_bytes()
    assert document["predictions_sha256"] == hashlib.sha256(table).hexdigest()
    shown = launched(tmp_path / "two", threads=2)
    assert f"\ndigest   {document['predictions_sha256'][:16]}\n" in shown
    assert "epoch" not in shown
