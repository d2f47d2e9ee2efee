"""Bad input to the real commands: exit code, one message that says where, what and what to do, and nothing written."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmpsweep import cli
from tests.helpers.inputs import SWEEP, make_assets, make_results, snapshot

INLINE = "--inline --mlflow none --limit 4"

SETTINGS = {
    # what is wrong: (launch options, parts of the message)
    "an unknown key": ("--set seed=1", "sweep.yaml: seed: unknown key", "name, network, data"),
    "an unknown key of a part": ("--set data.sorce=digits", "data.sorce: unknown key", "source, path, labels, split"),
    "an unknown axis": ("--set grid.alfa=[1.0]", "alfa: unknown key", "threshold, granularity"),
    "alpha 0": ("--set grid.alpha=[1.0,0]", "grid.0.alpha.1: got 0, expected greater than 0"),
    "alpha negative": ("--set grid.alpha=-0.5", "alpha", "got -0.5", "greater than 0"),
    "alpha nan": ("--set grid.alpha=[.nan]", "alpha", "got nan", "expected a finite number"),
    "alpha infinite": ("--set grid.alpha=[.inf]", "alpha", "got inf", "expected a finite number"),
    "alpha a word": ("--set grid.alpha=[high]", "alpha", "got 'high'", "expected a valid number"),
    "alpha twice": ("--set grid.alpha=[0.5,0.5]", "alpha", "[0.5, 0.5]", "without repeats"),
    "an empty axis": ("--set grid.reset=[]", "grid.0.reset: got ", "expected at least one value"),
    "an axis without num": ("--set 'grid.alpha={start: 0.1, stop: 1}'", "alpha", "stop", "{start, stop, num}"),
    "a logarithmic axis from 0": ("--set 'grid.alpha={logspace: {start: 0, stop: 1, num: 3}}'", "alpha", "> 0"),
    "no grid": ("--set grid=[]", "grid: got", "at least one"),
    "T 0": ("--set time_steps=[0]", "time_steps.0: got 0", "greater than or equal to 1"),
    "T too large": ("--set time_steps=[16777217]", "time_steps.0: got 16777217", "less than or equal to 16777216"),
    "T unsorted": ("--set time_steps=[8,4]", "time_steps: got [8, 4]", "ascending time steps"),
    "T twice": ("--set time_steps=[8,8]", "time_steps: got [8, 8]", "without repeats"),
    "T not an integer": ("--set time_steps=[2.5]", "time_steps.0: got 2.5", "expected a valid integer"),
    "T a number, not a list": ("--set time_steps=8", "time_steps: got 8", "expected a list"),
    "no T": ("--set time_steps=[]", "time_steps: got", "expected at least one value"),
    "an unknown threshold": ("--set grid.threshold=[max]", "threshold", "'max'", "vin_max, vin_p<percent>"),
    "a percentile over 100": ("--set grid.threshold=[vin_p101]", "threshold", "'vin_p101'", "activation_max"),
    "a percentile of 0": ("--set grid.threshold=[vin_p0]", "threshold", "'vin_p0'", "vin_p<percent>"),
    "an unknown reset": ("--set grid.reset=[zero]", "reset", "got 'zero'", "'soft' or 'hard'"),
    "an initial potential of 1": ("--set grid.v_init=[1.0]", "v_init", "got 1.0", "less than 1"),
    "a shard of no image": ("--set data.shard_size=0", "data.shard_size: got 0", "greater than or equal to 1"),
    "a path as name": ("--set name=../../tmp", "name: got '../../tmp'", "expected text that matches"),
    "an unset variable": ("--set network.weights=$RMPSWEEP_UNSET/w.pt", "RMPSWEEP_UNSET", "not set"),
    "--set without =": ("--set grid.alpha", "--set 'grid.alpha'", "expected key.path=value"),
    "--set of broken YAML": ("--set 'grid.alpha=[1.0'", "--set 'grid.alpha=[1.0'", "not valid YAML: line 1, column 5"),
    "--set below a value": ("--set name.first=x", "--set 'name.first=x'", "'name'", "no keys"),
    "a limit of 0": ("--limit 0", "'--limit'", "1"),
    "a limit that is a word": ("--limit all", "'--limit'", "integer"),
    "no actor": ("--actors 0", "'--actors'", "1"),
    "an unknown option": ("--gpu 1", "--gpu", "No such option"),
    "a directory as MLflow store": ("--mlflow file:/tmp/runs", "'file:/tmp/runs'", "sqlite:////tmp/runs/mlflow.db"),
    "a malformed MLflow URI": ("--mlflow htp://localhost", "'htp://localhost'", "expected sqlite:///<file>"),
}

DATA = {
    "an unknown source": ("--set data.source=mnist", "data: source: got 'mnist'", "digits, cifar10"),
    "an unknown transform": ("--set data.transform=vit", "data: transform: got 'vit'", "unit, cifar10"),
    "a transform of other channels": ("--set data.transform=cifar10", "digits/test", "3 channels", "'unit'"),
    "a path that digits do not have": ("--set data.path=/data", "digits: path: got '/data'", "expected none"),
    "a missing split": ("--set data.split=val", "digits: split: got 'val'", "train, test"),
    "a missing calibration split": ("--set data.calibration_split=val", "digits: split: got 'val'", "train, test"),
    "no data path": ("parquet", "parquet: path: got none", "expected a folder"),
    "no transform": ("--set 'data={source: parquet, path: $ASSETS/good}'", "transform", "parquet", "name one"),
    "a missing data path": ("parquet $ASSETS/nowhere", "parquet: path: got '$ASSETS/nowhere'", "no folder"),
    "a missing Parquet split": ("parquet $ASSETS/empty", "$ASSETS/empty", "'test'"),
    "Parquet without the columns": (
        "parquet $ASSETS/columns.parquet",
        "columns.parquet: got columns picture, label",
        "expected columns image",
    ),
    "no Parquet": ("parquet $ASSETS/noise.parquet", "noise.parquet: not a readable Parquet file"),
    "a record that is no image": ("parquet $ASSETS/text", "test.parquet: row 19 (key '019')", "not an image"),
    "a negative label": ("parquet $ASSETS/negative", "row 19", "label: got -1", "0 or more"),
    "images of two sizes": ("parquet $ASSETS/sizes", "019 is 9x9", "resizes"),
    "an image that ends early": ("parquet $ASSETS/cut", "row 0 (key '000')", "damaged or cut short"),
    "CIFAR without a path": ("--set data.source=cifar10", "cifar10: path: got none", "cifar-10-batches-py"),
}

NETWORKS = {
    "an unknown network": ("--set network.name=vgg99", "network: name: got 'vgg99'", "vgg-small, vgg16"),
    "a network and a module": ("--set network.module=a:b", "network: got", "exactly one of name and module"),
    "neither weights nor a recipe": ("--set network.weights=", "network: got", "expected weights"),
    "an unknown recipe": ("--set network.train=mnist", "recipe 'mnist'", "digits-vgg-small"),
    "the recipe of another network": (
        "--set network.name=resnet20 --set network.train=digits-vgg-small",
        "recipe trains 'vgg-small', not 'resnet20'",
    ),
    "a recipe with an unknown key": (
        "--set network.train=digits-vgg-small --set network.train.lr=1",
        "network.train.lr: unknown key",
        "momentum",
    ),
    "images too small": ("--set network.name=vgg16", "vgg16", "8x8", "16x16 or more"),
    "missing weights": ("weights none.safetensors", "network.weights: $ASSETS/none.safetensors: no such file", "train"),
    "a folder as weights": ("weights empty", "$ASSETS/empty", "directory"),
    "weights of another kind": ("weights weights.onnx", "got a .onnx file", ".safetensors, .pt, .pth"),
    "random bytes": ("weights random.safetensors", "random.safetensors: damaged", "save model.state_dict()"),
    "random bytes for torch": ("weights random.pth", "random.pth: damaged", "save model.state_dict()"),
    "an empty file": ("weights empty.pth", "empty.pth: damaged", "save model.state_dict()"),
    "half a file": ("weights truncated.safetensors", "truncated.safetensors: damaged", "save model.state_dict()"),
    "pickled code": ("weights pickled.pth", "pickled.pth: damaged, or not", "could run code", "model.state_dict()"),
    "a whole pickled network": ("weights whole-network.pth", "whole-network.pth", "save model.state_dict()"),
    "a list": ("weights list.pth", "list.pth: got list", "state dict"),
    "weights of another network": ("weights resnet.safetensors", "missing", "unexpected", "name the network"),
    "weights of another image size": ("weights rgb.safetensors", "got shape [16, 3, 3, 3], expected [16, 1, 3, 3]"),
    "weights that are NaN": ("weights nan.safetensors", "nan.safetensors", ".weight: holds NaN"),
    "a layer without a spike": (
        "weights silent.safetensors",
        "calibration vin_max by layer: layer 'features.4' is silent",
        "check the weights",
    ),
    "weights of other classes": (
        "parquet $ASSETS/hundred --set network.weights=$ASSETS/rgb.safetensors",
        "rgb.safetensors: classifier.4.weight",
        "got shape [10, 64], expected [100, 64]",
        "10 classes for 100",
    ),
    "bad weights for good results": (
        "weights nan.safetensors --results $ASSETS/gaps",
        "nan.safetensors",
        ".weight: holds NaN",
    ),
    "a module that is missing": ("module nowhere:net", "cannot import nowhere", "installed"),
    "a module of wrong syntax": ("module rmpsweep_bad_syntax:net", "rmpsweep_bad_syntax", "SyntaxError"),
    "no function named": ("module rmpsweep_bad_networks", "'package.module:function'"),
    "a missing function": ("module rmpsweep_bad_networks:net", "has no function net", "sigmoid"),
    "a factory that is none": ("module rmpsweep_bad_networks:NOT_CALLABLE", "no function NOT_CALLABLE"),
    "a factory that fails": ("module rmpsweep_bad_networks:fails", "the factory failed: KeyError: 'depth'"),
    "a factory of text": ("module rmpsweep_bad_networks:text", "returned str, expected torch.nn.Module"),
    "a layer that cannot spike": (
        "module rmpsweep_bad_networks:sigmoid sigmoid.safetensors",
        "node '_2' (Sigmoid at '2')",
        "Conv2d, Linear",
    ),
    "a module of other classes": (
        "module rmpsweep_bad_networks:three_classes three.safetensors",
        "three_classes",
        "shape [3]",
        "10 classes",
    ),
}

FILES = {
    # what is wrong: (contents of the file, parts of the message)
    "broken YAML": ("name: [tiny", "sweep.yaml: not valid YAML: line 1, column 12: expected ',' or ']'"),
    "a repeated key": (SWEEP + "name: again\n", "line 9, column 1: key 'name' is given twice, first in line 2"),
    "a date that does not exist": (SWEEP.replace("tiny", "2020-13-45"), "line 2, column 7: 2020-13-45: month"),
    "no text": (b"\xff\xfe\x00\x80", "sweep.yaml: not valid YAML"),
    "nothing": ("", "sweep.yaml: got NoneType", "expected a mapping"),
    "a list": ("- tiny\n", "sweep.yaml: got list", "expected a mapping"),
    "keys that are numbers": (SWEEP + "1: 2\n", "sweep.yaml: 1: got 1, expected keys that are strings"),
    "missing keys": ("name: tiny\n", "network: missing", "data: missing", "grid: missing", "time_steps: missing"),
    "several mistakes": ("name: 3\ntime_steps: [0]\n", "name: got 3", "time_steps.0: got 0", "grid: missing"),
}

COMMANDS = {
    # what is wrong: (command line, exit code, parts of the message)
    "a sweep that is missing": ("launch none.yaml", 2, "sweep 'none.yaml'", "no such file", "quickstart"),
    "a folder as sweep": ("launch $ASSETS/empty", 2, "$ASSETS/empty", "it is a directory"),
    "plan of a missing sweep": ("plan none", 2, "sweep 'none'", "no such file", "quickstart"),
    "plan of a bad sweep": ("plan sweep.yaml --set time_steps=[0]", 2, "time_steps.0: got 0"),
    "calibrate a bad sweep": ("calibrate sweep.yaml --set grid.alpha=0", 2, "alpha", "got 0"),
    "calibrate a silent network": (
        "calibrate sweep.yaml --set network.weights=$ASSETS/silent.safetensors",
        2,
        "layer 'features.4' is silent",
    ),
    "a missing recipe": ("train mnist", 2, "recipe 'mnist'", "digits-vgg-small"),
    "a sweep as recipe": ("train sweep.yaml", 2, "sweep.yaml: epochs: missing", "grid: unknown key"),
    "a list of unknown things": ("list datasets", 2, "'datasets'", "sweeps, recipes, networks"),
    "an unknown command": ("lunch sweep.yaml", 2, "No such command 'lunch'"),
    "no sweep": ("launch", 2, "Missing argument 'SWEEP'"),
    "status before a launch": ("status sweep.yaml", 2, "results/tiny: no sweep has been launched here", "--results"),
    "status of an empty folder": ("status $ASSETS/empty", 2, "$ASSETS/empty: no sweep has been launched"),
    "status of another folder": ("status $ASSETS/occupied", 2, "no sweep has been launched here"),
    "merge of an empty folder": ("merge $ASSETS/empty", 2, "no sweep has been launched here"),
    "log of an empty folder": ("log $ASSETS/empty", 2, "no sweep has been launched here"),
    "report of an empty folder": ("report $ASSETS/empty", 2, "no sweep has been launched here"),
    "merge with gaps": ("merge $ASSETS/gaps", 2, "of 8 results are missing", "--allow-partial"),
    "log before merge": ("log $ASSETS/unmerged --mlflow sqlite:///m.db", 4, "summary.parquet", "rmpsweep merge"),
    "report before merge": ("report $ASSETS/unmerged", 4, "summary.parquet", "rmpsweep merge"),
    "log nowhere": ("log $ASSETS/gaps --mlflow none", 2, "--mlflow: got 'none'", "tracking URI"),
    "log to a directory": ("log $ASSETS/gaps --mlflow mlruns", 2, "'mlruns'", "sqlite:///mlruns/mlflow.db"),
    "log to no server": ("log $ASSETS/gaps --mlflow http://127.0.0.1:1", 4, "http://127.0.0.1:1", "cannot be used"),
    "log below a file": ("log $ASSETS/gaps --mlflow sqlite:///$ASSETS/file/m.db", 4, "file/m.db", "cannot be used"),
    "a directory as the sweep's MLflow store": (
        "launch sweep.yaml --inline --set mlflow.tracking_uri=file:/tmp/runs",
        2,
        "'file:/tmp/runs'",
        "sqlite:///",
    ),
    "results of another sweep": (
        "launch sweep.yaml --set name=other --results $ASSETS/gaps",
        2,
        "$ASSETS/gaps",
        "name 'tiny', here 'other'",
        "name another with --results",
    ),
    "results of another network": (
        "launch sweep.yaml --set network.name=resnet20 --results $ASSETS/gaps",
        2,
        "$ASSETS/gaps",
        "network 'vgg-small', here 'resnet20'",
        "name another with --results",
    ),
    "results in an occupied folder": ("launch sweep.yaml --results $ASSETS/occupied", 2, "is not empty", "--results"),
    "results in a file": ("launch sweep.yaml --results $ASSETS/file", 4, "$ASSETS/file", "--results"),
    "results below a file": ("launch sweep.yaml --results $ASSETS/file/r", 4, "$ASSETS/file/r", "--results"),
    "results that cannot be made": ("launch sweep.yaml --inline --results /proc/r", 4, "/proc/r", "another folder"),
    "a torn sweep.yaml": ("status $ASSETS/torn-sweep", 2, "torn-sweep/sweep.yaml: not valid YAML"),
    "a launch on a torn sweep.yaml": ("launch sweep.yaml --results $ASSETS/torn-sweep", 2, "torn-sweep/sweep.yaml"),
    "a torn plan.json": ("status $ASSETS/torn-plan", 4, "torn-plan/plan.json: not a plan", "launch the sweep again"),
    "a torn run.json": ("report $ASSETS/torn-run", 4, "torn-run/run.json"),
}


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Inputs, a cache, and a finished sweep; $ASSETS in a sweep file or a command stands for the folder."""
    folder = tmp_path_factory.mktemp("assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSETS", str(folder))
        patch.setenv("RMPSWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        patch.syspath_prepend(folder)
        make_assets(folder)
        (folder / "good.yaml").write_text(SWEEP)
        assert exit_code(shlex.split(f"launch {folder}/good.yaml {INLINE} --results {folder}/finished")) == 0
        make_results(folder, folder / "finished")
        yield folder


@pytest.fixture(autouse=True)
def workplace(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a sweep that can be run; its default results directory would be made here."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "parts"),
    [
        pytest.param(options, parts, id=name)
        for table in (SETTINGS, DATA, NETWORKS)
        for name, (options, *parts) in table.items()
    ],
)
def test_a_launch_is_refused(options, parts, assets, workplace, capsys):
    before = snapshot(assets, workplace)
    code = exit_code(launch(options, assets))
    check_refusal(code, 2, *capsys.readouterr(), parts, assets)
    assert snapshot(assets, workplace) == before


@pytest.mark.parametrize(
    ("content", "parts"), [pytest.param(content, parts, id=name) for name, (content, *parts) in FILES.items()]
)
def test_a_sweep_file_is_refused(content, parts, assets, workplace, capsys):
    (workplace / "sweep.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    before = snapshot(assets, workplace)
    code = exit_code(launch("", assets))
    check_refusal(code, 2, *capsys.readouterr(), parts, assets)
    assert snapshot(assets, workplace) == before


@pytest.mark.parametrize(
    ("command", "expected", "parts"),
    [pytest.param(command, code, parts, id=name) for name, (command, code, *parts) in COMMANDS.items()],
)
def test_a_command_is_refused(command, expected, parts, assets, workplace, capsys):
    before = snapshot(assets, workplace)
    code = exit_code(shlex.split(command.replace("$ASSETS", str(assets))))
    check_refusal(code, expected, *capsys.readouterr(), parts, assets)
    assert snapshot(assets, workplace) == before


@pytest.mark.slow
def test_images_and_weights_without_the_mistake_are_accepted(assets):
    assert exit_code(launch("parquet $ASSETS/good --set network.weights=$ASSETS/rgb.safetensors", assets)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected", "parts"),
    [
        ("--inline --set grid.alpha=[0]", 2, ["grid.0.alpha.0: got 0, expected greater than 0"]),
        ("--inline --set network.weights=$ASSETS/pickled.pth", 2, ["pickled.pth: damaged, or not", "could run code"]),
        ("--inline --results $ASSETS/file/results", 4, ["$ASSETS/file/results", "--results"]),
        ("--address 127.0.0.1:1", 4, ["Ray on 127.0.0.1:1 cannot be used", "--inline"]),
        ("--address nowhere", 4, ["Ray on nowhere cannot be used: Invalid address format", "--inline"]),
    ],
)
def test_a_process_of_its_own_ends_with_the_same_code_and_message(options, expected, parts, assets, workplace):
    before = snapshot(assets, workplace)
    command = shlex.split(f"{sys.executable} -m rmpsweep launch sweep.yaml {options}".replace("$ASSETS", str(assets)))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    check_refusal(done.returncode, expected, done.stdout, done.stderr, parts, assets)
    assert snapshot(assets, workplace) == before


def exit_code(arguments: list[str]) -> int:
    """Of the command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rmpsweep", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def launch(options: str, assets: Path) -> list[str]:
    """Launches sweep.yaml; "parquet PATH", "weights FILE" and "module FACTORY [WEIGHTS]" stand for their --set."""
    kind, _, rest = options.partition(" ")
    value, _, more = rest.partition(" ")
    if kind == "parquet":
        path = f", path: {value}" if value else ""
        options = f"--set 'data={{source: parquet, transform: unit{path}}}' {more}"
    elif kind == "weights":
        options = f"--set network.weights=$ASSETS/{value} {more}"
    elif kind == "module":
        options = f"--set 'network={{module: \"{value}\", weights: $ASSETS/{more or 'digits.safetensors'}}}'"
    return shlex.split(f"launch sweep.yaml {INLINE} {options}".replace("$ASSETS", str(assets)))


def check_refusal(code: int, expected: int, out: str, err: str, parts: list[str], assets: Path) -> None:
    """One message, on standard error, with all its parts."""
    assert code == expected, err
    assert out == ""
    assert "Traceback" not in err
    assert len(re.findall("^error: ", err, re.MULTILINE | re.IGNORECASE)) == 1, err
    assert [part for part in parts if part.replace("$ASSETS", str(assets)) not in err] == [], err
