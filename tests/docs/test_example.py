"""docs/example.py runs, as a script would."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "example.py"


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_the_example_runs_and_says_what_it_promises(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(EXAMPLE))
    said = capsys.readouterr().out
    assert len(names["summary"]) == 2 * 2 * 3 * 4
    assert {"soft", "hard"} == set(names["results"].best)
    assert "<Results of quickstart in results/example: 12 trials on 100 images, T = 8 to 64>" in said
    assert said.count("'event': 'done'") >= 3
    assert (tmp_path / "results" / "example" / "accuracy.html").is_file()
