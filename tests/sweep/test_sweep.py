import re
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import pytest
from pydantic_core.core_schema import ErrorType

from rmpsweep.errors import SweepError
from rmpsweep.models.recipe import Recipe
from rmpsweep.sweep.file import _EXPECTED, RECIPES, SWEEPS, dump_sweep, load_recipe, load_sweep, names, parse_sweep
from rmpsweep.sweep.schema import Calibration, Data, Grid, Mlflow, Network, Run, Search, Sweep
from rmpsweep.terms import Setting

SECTIONS = {
    "name": "t",
    "network": "{name: vgg-small, weights: w.safetensors}",
    "data": "{source: digits}",
    "grid": "{alpha: [0.5, 0.25]}",
    "time_steps": "[4, 8]",
}
RECIPE = "{name: r, network: vgg-small, source: digits, epochs: 3}"
PARTS = {
    "network": Network,
    "data": Data,
    "calibration": Calibration,
    "grid": Grid,
    "search": Search,
    "run": Run,
    "mlflow": Mlflow,
}
TRAINED = f"{{name: vgg-small, train: {RECIPE}}}"


@pytest.fixture
def write(tmp_path):
    """Write a sweep file, some sections replaced (None: left out); returns its path."""

    def write_sections(**changed):
        sections = {**SECTIONS, **changed}
        path = tmp_path / "s.yaml"
        path.write_text("".join(f"{key}: {text}\n" for key, text in sections.items() if text is not None))
        return str(path)

    return write_sections


def settings(sweep):
    """What each trial sets other than the default."""
    defaults = asdict(Setting())
    return [{k: v for k, v in asdict(setting).items() if v != defaults[k]} for setting in sweep.settings()]


GRIDS = [
    ("{}", [{}]),
    ("{alpha: 0.5}", [{"alpha": 0.5}]),
    ("{alpha: [0.5, 0.25]}", [{"alpha": 0.5}, {"alpha": 0.25}]),
    ("{alpha: {start: 0.2, stop: 0.8, num: 4}}", [{"alpha": a} for a in (0.2, 0.4, 0.6, 0.8)]),
    ("{alpha: {start: 0.9, stop: 0.7, num: 3}}", [{"alpha": a} for a in (0.9, 0.8, 0.7)]),
    ("{alpha: {start: 0.5, stop: 0.9, num: 1}}", [{"alpha": 0.5}]),
    ("{alpha: {logspace: {start: 0.01, stop: 100, num: 3}}}", [{"alpha": 0.01}, {}, {"alpha": 100.0}]),
    ("{v_init: 0.5, max_pool: spike}", [{"max_pool": "spike", "v_init": 0.5}]),
    ("{alpha: [1e-2, 1e+2]}", [{"alpha": 0.01}, {"alpha": 100.0}]),
    ("{alpha: {start: 1e-2, stop: 3e-2, num: 2}}", [{"alpha": 0.01}, {"alpha": 0.03}]),
    ("{input_scale: [auto, 2]}", [{"input_scale": "auto"}, {"input_scale": 2.0}]),
    ("{threshold: [vin_p99.7, activation_max]}", [{"threshold": "vin_p99.7"}, {"threshold": "activation_max"}]),
    # every combination; alpha turns fastest, however the keys are ordered in the file
    (
        "{alpha: [0.5, 0.25], reset: [hard, soft]}",
        [{"reset": "hard", "alpha": 0.5}, {"reset": "hard", "alpha": 0.25}, {"alpha": 0.5}, {"alpha": 0.25}],
    ),
    # a list of grids, each trial once
    (
        "[{alpha: [0.5, 0.25]}, {alpha: [0.25, 2.0], granularity: [channel, layer]}]",
        [
            {"alpha": 0.5},
            {"alpha": 0.25},
            {"granularity": "channel", "alpha": 0.25},
            {"granularity": "channel", "alpha": 2.0},
            {"alpha": 2.0},
        ],
    ),
    # the seed matters only where something is drawn
    ("{seed: [1, 2]}", [{}]),
    (
        "{encoding: [constant, poisson], seed: [1, 2]}",
        [{}, {"encoding": "poisson", "seed": 1}, {"encoding": "poisson", "seed": 2}],
    ),
]


@pytest.mark.parametrize(("grid", "expected"), GRIDS)
def test_a_grid_is_the_trials_it_describes(write, grid, expected):
    assert settings(load_sweep(write(grid=grid))) == expected


def test_environment_variables_are_replaced_in_every_section(write, monkeypatch):
    monkeypatch.setenv("IMAGES", "/data/images")
    monkeypatch.setenv("NETS", "/data/nets")
    path = write(network="{name: vgg16, weights: $NETS/v.pt}", data='{source: parquet, path: "${IMAGES}/val"}')
    sweep = load_sweep(path, ["mlflow.tracking_uri=file:$IMAGES"])
    assert (sweep.network.weights, sweep.data.path) == (Path("/data/nets/v.pt"), "/data/images/val")
    assert sweep.mlflow.tracking_uri == "file:/data/images"


CHANGES = [
    (["run.actors=3"], lambda s: s.run.actors, 3),
    (["run.retries=0", "run.retries=5"], lambda s: s.run.retries, 5),
    (["mlflow.experiment=a=b"], lambda s: s.mlflow.experiment, "a=b"),
    (["time_steps=[2, 3]"], lambda s: s.time_steps, (2, 3)),
    (["data={source: cifar10, path: x}"], lambda s: s.data.source, "cifar10"),
    (["network.name=resnet20"], lambda s: s.network.label, "resnet20"),
    (["calibration.images=7"], lambda s: s.calibration.images, 7),
    (["grid.alpha=1", "grid.reset=hard"], settings, [{"reset": "hard"}]),
    (["grid=[{alpha: 1}, {alpha: 2}]", "grid.v_init=0.5"], settings, [{"v_init": 0.5}, {"v_init": 0.5, "alpha": 2.0}]),
]


@pytest.mark.parametrize(("changes", "found", "expected"), CHANGES, ids=[" ".join(case[0]) for case in CHANGES])
def test_set_changes_what_it_names(write, changes, found, expected):
    assert found(load_sweep(write(), changes)) == expected


def test_set_on_the_grid_applies_to_every_grid_of_a_list(write):
    path = write(grid="[{alpha: 0.5}, {alpha: 0.25, reset: hard}]")
    both = [{"alpha": 0.5, "v_init": 0.5}, {"alpha": 0.25, "reset": "hard", "v_init": 0.5}]
    assert settings(load_sweep(path, ["grid.v_init=0.5"])) == both


def test_set_reaches_into_a_recipe_that_the_sweep_names(write):
    path = write(network="{name: vgg-small, train: digits-vgg-small}")
    changed = load_sweep(path, ["network.train.epochs=2"]).network.train
    assert changed == Recipe(**{**load_recipe("digits-vgg-small").__dict__, "epochs": 2})


def test_set_may_name_a_recipe(write):
    assert load_sweep(write(), ["network.train=digits-vgg-small"]).network.train == load_recipe("digits-vgg-small")


@pytest.mark.parametrize("changes", [{}, {"network": TRAINED, "grid": "[{alpha: 1}, {reset: [hard], seed: 3}]"}])
def test_a_resolved_sweep_reads_back_as_it_was(write, changes):
    sweep = load_sweep(write(**changes), ["grid.alpha={logspace: {start: 0.00001, stop: 1.0, num: 7}}"][: not changes])
    text = dump_sweep(sweep)
    assert parse_sweep(text, "sweep.yaml") == sweep
    assert dump_sweep(parse_sweep(text, "sweep.yaml")) == text
    assert all(f"{key}:" in text for key in Sweep.model_fields)


def test_a_resolved_sweep_is_written_with_the_bytes_of_earlier_versions(write):
    """Other bytes would make a launch publish again what it has published."""
    written = (Path(__file__).parents[1] / "fixtures" / "results-b667ece" / "sweep.yaml").read_text()
    assert dump_sweep(parse_sweep(written, "sweep.yaml")) == written
    path = "/a-folder-with-a-long-name" * 5
    text = dump_sweep(load_sweep(write(), [f"data.path={path}", "grid.alpha=0.00001", "mlflow.experiment='yes'"]))
    assert f"  path: {path}\n" in text
    assert "  alpha:\n  - 1.0e-05\n" in text
    assert "  experiment: 'yes'\n" in text


def test_packaged_sweeps_are_found_by_name_with_and_without_the_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_sweep("quickstart") == load_sweep("quickstart.yaml") == load_sweep(str(SWEEPS / "quickstart.yaml"))
    assert load_recipe("digits-vgg-small.yaml") == load_recipe(str(RECIPES / "digits-vgg-small.yaml"))


def test_a_file_at_hand_comes_before_a_packaged_one(write, monkeypatch):
    path = Path(write())
    path.rename(path.parent / "quickstart.yaml")
    monkeypatch.chdir(path.parent)
    assert (load_sweep("quickstart.yaml").name, load_sweep("quickstart").name) == ("t", "quickstart")


@pytest.mark.parametrize("name", names(SWEEPS))
def test_every_packaged_sweep_loads(name, monkeypatch):
    set_variables(SWEEPS / f"{name}.yaml", monkeypatch)
    assert load_sweep(name).settings()


@pytest.mark.parametrize("name", names(RECIPES))
def test_every_packaged_recipe_loads(name, monkeypatch):
    set_variables(RECIPES / f"{name}.yaml", monkeypatch)
    assert load_recipe(name).name == name


def set_variables(path, monkeypatch):
    """Directories that the file takes from the environment."""
    for variable in re.findall(r"\$\{?(\w+)", path.read_text()):
        monkeypatch.setenv(variable, "/somewhere")


METHODS = "vin_max, vin_p<percent>"
BAD_SECTIONS = [
    ("name", "t\nname: u", ["not valid YAML", "'name' is given twice", "line 1"]),
    ("name", "[", ["not valid YAML", "line"]),
    ("name", "2020-13-45", ["2020-13-45"]),
    ("name", "7", ["name: got 7", "string"]),
    ("name", "a b", ["name: got 'a b'"]),
    ("name", None, ["name: missing"]),
    ("time_steps", None, ["time_steps: missing"]),
    ("nmae", "t", ["nmae: unknown key", "name, network, data, calibration, grid, time_steps, search, run, mlflow"]),
    ("network", "{name: vgg-small, wieghts: w}", ["network.wieghts: unknown key", "name, module, weights, train"]),
    ("network", "{name: vgg-small, weights: $UNSET/w}", ["network.weights: '$UNSET/w'", "variable UNSET is not set"]),
    ("data", "{source: csv, path: $UNSET}", ["s.yaml: data.path: '$UNSET'", "environment variable UNSET is not set"]),
    ("network", "{name: vgg, weights: w}", ["network: name: got 'vgg'", "vgg-small, vgg16, resnet20"]),
    ("network", "{name: vgg16, module: a:b, weights: w}", ["network: got", "'a:b'", "exactly one of name and module"]),
    ("network", "{weights: w}", ["network: got", "exactly one of name and module"]),
    ("network", "{name: vgg16}", ["network: got {'name': 'vgg16'}", "weights (a file)", "train (a recipe"]),
    ("network", f"{{name: vgg16, train: {RECIPE}}}", ["network", "recipe trains 'vgg-small', not 'vgg16'"]),
    ("network", TRAINED.replace("3", "0"), ["network.train: epochs: got 0, expected 1 or more"]),
    ("network", TRAINED.replace("3", "x"), ["network.train.epochs: got 'x'", "valid integer"]),
    ("network", TRAINED.replace(", epochs: 3", ""), ["network.train.epochs: missing"]),
    ("network", TRAINED.replace("epochs", "epoch"), ["network.train.epoch: unknown key", "epochs, batch_size"]),
    ("data", "{source: digit}", ["data: source: got 'digit'", "auto, digits, cifar10, cifar100, imagefolder"]),
    ("data", "{source: digits, transform: x}", ["data: transform: got 'x'", "unit, cifar10"]),
    ("data", "{source: digits, shards: 1}", ["data.shards: unknown key", "shard_size, calibration_split"]),
    ("data", "{source: digits, shard_size: 0}", ["data.shard_size: got 0", "greater than or equal to 1"]),
    ("calibration", "{image: 1}", ["calibration.image: unknown key", "images, time_steps, encoding, seed"]),
    ("calibration", "{encoding: rate}", ["calibration.encoding: got 'rate'", "'constant' or 'poisson'"]),
    ("run", "{actor: 1}", ["run.actor: unknown key", "actors, gpus_per_actor, retries, batch_size"]),
    ("run", "{retries: -1}", ["run.retries: got -1", "greater than or equal to 0"]),
    ("mlflow", "{uri: x}", ["mlflow.uri: unknown key", "tracking_uri, experiment"]),
    ("grid", "{alhpa: 1}", ["grid.0.alhpa: unknown key", "alpha, seed"]),
    ("grid", "[{alpha: 1}, {alhpa: 1}]", ["grid.1.alhpa: unknown key", "alpha, seed"]),
    ("grid", "[]", ["grid: got []", "at least one"]),
    ("grid", "{alpha: []}", ["grid.0.alpha: got []", "at least one value"]),
    ("grid", "{alpha: [1, 0]}", ["grid.0.alpha.1: got 0", "greater than 0"]),
    ("grid", "{alpha: -1}", ["grid.0.alpha.0: got -1", "greater than 0"]),
    ("grid", "{alpha: .nan}", ["grid.0.alpha.0: got nan", "finite number"]),
    ("grid", "{alpha: .inf}", ["grid.0.alpha.0: got inf", "finite number"]),
    ("grid", "{alpha: [1, 1.0]}", ["grid.0.alpha: got [1, 1.0]", "without repeats"]),
    ("grid", "{alpha: {start: 1, stop: 2}}", ["grid.0.alpha: got {'start': 1", "{start, stop, num}", "logspace"]),
    ("grid", "{alpha: {start: 1, stop: 2, num: 0}}", ["grid.0.alpha: got", "'num': 0", "num an integer >= 1"]),
    ("grid", "{alpha: {logspace: {start: 0, stop: 1, num: 2}}}", ["grid.0.alpha: got", "start and stop > 0"]),
    ("grid", "{reset: softt}", ["grid.0.reset.0: got 'softt'", "'soft' or 'hard'"]),
    ("grid", "{threshold: [vin_max, max]}", ["grid.0.threshold.1: got 'max'", METHODS]),
    ("grid", "{threshold: vin_p101}", ["grid.0.threshold.0: got 'vin_p101'", METHODS]),
    ("grid", "{v_init: 1}", ["grid.0.v_init.0: got 1", "less than 1"]),
    ("grid", "{seed: 0.5}", ["grid.0.seed.0: got 0.5", "integer"]),
    ("grid", "{input_scale: big}", ["grid.0.input_scale.0: got 'big'", "number", "'auto'"]),
    ("time_steps", "[8, 4]", ["time_steps: got [8, 4]", "ascending", "without repeats"]),
    ("time_steps", "[4, 4]", ["time_steps: got [4, 4]", "ascending", "without repeats"]),
    ("time_steps", "[0, 4]", ["time_steps.0: got 0", "greater than or equal to 1"]),
    ("time_steps", "[]", ["time_steps: got []", "at least one value"]),
    ("time_steps", "[4, 8.5]", ["time_steps.1: got 8.5", "integer"]),
]


@pytest.mark.parametrize(("section", "text", "parts"), BAD_SECTIONS, ids=[f"{s}: {t}" for s, t, _ in BAD_SECTIONS])
def test_a_bad_sweep_file_is_refused_with_file_key_value_and_what_is_allowed(write, section, text, parts):
    path = write(**{section: text})
    with pytest.raises(SweepError) as refused:
        load_sweep(path)
    assert [part for part in (*parts, path) if part not in str(refused.value)] == []


def test_every_mistake_is_reported_at_once(write):
    with pytest.raises(SweepError) as refused:
        load_sweep(write(grid="{alpha: 0, reset: x}", time_steps="[0, 1]", nmae="t"))
    found = [line.split(": ")[1] for line in str(refused.value).splitlines()]
    assert found == ["grid.0.reset.0", "grid.0.alpha.0", "time_steps.0", "nmae"]


BAD_CHANGES = [
    ("alpha", ["--set 'alpha'", "expected key.path=value"]),
    ("=1", ["--set '=1'", "expected key.path=value"]),
    ("grid..alpha=1", ["--set 'grid..alpha=1'", "expected key.path=value"]),
    ("grid.alpha=[1", ["--set 'grid.alpha=[1'", "not valid YAML"]),
    ("grid={alpha: 1, alpha: 2}", ["--set 'grid={alpha", "'alpha' is given twice"]),
    ("name.x=1", ["--set 'name.x=1'", "'name' has no keys"]),
    ("grid.alpha.x=1", ["--set 'grid.alpha.x=1'", "'alpha' has no keys"]),
    ("grid.alhpa=1", ["s.yaml", "grid.0.alhpa: unknown key", "alpha, seed"]),
    ("runs.actors=1", ["s.yaml", "runs: unknown key", "run, mlflow"]),
    ("run.actors=two", ["s.yaml", "run.actors: got 'two'", "integer"]),
    ("data.path=$UNSET", ["--set 'data.path=$UNSET': '$UNSET'", "environment variable UNSET is not set"]),
    ("network={name: $UNSET}", ["--set 'network={name: $UNSET}': name: '$UNSET'", "variable UNSET is not set"]),
    ("calibration=x", ["s.yaml", "calibration: got 'x', expected a mapping"]),
    ("network.train=nope", ["recipe 'nope': no such file", "digits-vgg-small"]),
]


@pytest.mark.parametrize(("change", "parts"), BAD_CHANGES)
def test_a_bad_set_is_refused_with_the_option_and_what_is_allowed(write, change, parts):
    with pytest.raises(SweepError) as refused:
        load_sweep(write(), [change])
    assert [part for part in parts if part not in str(refused.value)] == []


def test_an_unset_variable_of_a_recipe_is_reported_with_the_recipe(monkeypatch):
    monkeypatch.delenv("CIFAR100_DIR", raising=False)
    with pytest.raises(SweepError) as of_recipe:
        load_sweep("cifar100-resnet20")
    assert "cifar100-resnet20.yaml: network.train.path (recipe cifar100-resnet20.yaml): " in str(of_recipe.value)
    with pytest.raises(SweepError, match=r"/cifar100-resnet20\.yaml: data\.path: '\$\{CIFAR100_DIR\}'"):
        load_sweep("cifar100-resnet20", ["network.train.path=elsewhere"])
    with pytest.raises(SweepError, match=r"/cifar100-resnet20\.yaml: path: "):
        load_recipe("cifar100-resnet20")


KEYS = [
    *(f"{section}.{key}" for section, model in PARTS.items() for key in model.model_fields),
    *(key for key in Sweep.model_fields if key not in ("name", "time_steps")),
    *("network.train.epochs", "network.train.dropout", "network.train.schedule", "data.transform.mean"),
]


@pytest.mark.parametrize("key", KEYS)
def test_what_is_expected_is_said_in_our_own_words(write, key):
    """Whatever a value is: pydantic's sentences about "input" are not shown."""
    before = {"network.train": f"network.train={RECIPE}", "data.transform": "data.transform={resize: 9}"}
    first = [change for place, change in before.items() if key.startswith(f"{place}.")]
    values = ("[]", "{}", "x", "-1", "1.5", "true", ".nan", "[x]", "[{}]", "{x: 1}", "99999999999")
    said = [refusal(write(), [*first, f"{key}={value}"]) for value in values]
    assert any(said)
    for text in filter(None, said):
        assert re.search("[Ii]nput|should be|something else", text.replace("input_scale", "")) is None
        assert re.search("expected|unknown key|missing|no such file|the recipe trains", text)


def refusal(path, changes):
    """What is said against a sweep; nothing where it is accepted."""
    try:
        load_sweep(path, changes)
    except SweepError as error:
        return str(error)
    return ""


def test_every_type_of_mistake_that_has_words_exists_in_pydantic():
    assert set(_EXPECTED) - {"path_type"} <= set(get_args(ErrorType))  # that one is not of its core


BAD_FILES = [
    (b"", ["got NoneType", "mapping", "name and network"]),
    (b"- a", ["got list", "mapping"]),
    (b"\xff\xfe", ["not valid YAML", "utf-8"]),
    (b"name: !!python/name:os.system", ["not valid YAML"]),
]


@pytest.mark.parametrize(("content", "parts"), BAD_FILES)
@pytest.mark.parametrize("load", [load_sweep, load_recipe])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, load, content, parts):
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with pytest.raises(SweepError) as refused:
        load(str(path))
    assert [part for part in (*parts, str(path)) if part not in str(refused.value)] == []


@pytest.mark.parametrize(("load", "known"), [(load_sweep, "quickstart"), (load_recipe, "digits-vgg-small")])
@pytest.mark.parametrize("name", ["nope", "dir/nope.yaml", "/", ""])
def test_a_missing_file_is_refused_with_the_names_that_exist(load, known, name):
    with pytest.raises(SweepError, match=rf"{name!r}: no such file.*{known}"):
        load(name)


@pytest.mark.parametrize("text", ["name: [", "- a", "", "name: t"])
def test_a_damaged_resolved_sweep_is_refused_with_its_file(text):
    with pytest.raises(SweepError, match=r"^results/sweep\.yaml: "):
        parse_sweep(text, "results/sweep.yaml")
