"""The tutorial's shell, run as it stands on a small folder of JPEGs and a checkpoint with random weights."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

DOCS = Path(__file__).parents[2] / "docs"
SMALLER = {
    "[16, 32, 64, 128, 256]": "[2, 4]",
    "512": "8",
    "--limit 1000": "--limit 6",
    "--time-steps 128": "--time-steps 64",
}
"""What is put in place of the tutorial's own figures, so that it takes seconds."""
SYNSETS = ("n01440764", "n01443537")


def make_images(folder: Path) -> None:
    """Eight JPEGs of two synsets each, of odd sizes, in class folders."""
    generator = np.random.default_rng(0)
    for synset in SYNSETS:
        (folder / "val" / synset).mkdir(parents=True)
        for number in range(8):
            height, width = generator.integers(200, 300, 2)
            pixels = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((int(width), int(height))).save(
                folder / "val" / synset / f"ILSVRC2012_val_{synset}_{number}.JPEG"
            )


@pytest.mark.ray
@pytest.mark.soak
def test_its_ten_lines_of_shell_end_in_a_report(tmp_path: Path) -> None:
    shell = re.search(r"```sh\n(.*?)```", (DOCS / "tutorial.md").read_text(encoding="utf-8"), re.DOTALL)
    assert shell is not None
    script = shell[1]
    assert len(script.splitlines()) == 10
    for theirs, ours in SMALLER.items():
        assert theirs in script
        script = script.replace(theirs, ours)
    make_images(tmp_path / "images")
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), tmp_path / "resnet18-f37072fd.pth")
    command = tmp_path / "bin" / "rmpsweep"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rmpsweep "$@"\n')
    command.chmod(0o755)
    here = {"PATH": f"{command.parent}:{os.environ['PATH']}", "RMPSWEEP_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        ["sh", "-e", "-x", "-c", script],
        cwd=tmp_path,
        env={**os.environ, **here},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("all 17 spiking layers agree", "Plan of tutorial", "no better than chance", "report.html"):
        assert part in done.stdout
    results = tmp_path / "results" / "tutorial"
    assert len(pq.read_table(results / "predictions.parquet")) == 6 * (1 + 3 * 2)
    assert "no better than chance" in (results / "report.html").read_text(encoding="utf-8")
    assert len(json.loads((results / "run.json").read_text())["launches"]) == 1
    assert "resize: 256" in (results / "sweep.yaml").read_text(encoding="utf-8")
