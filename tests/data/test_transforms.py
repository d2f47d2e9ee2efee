"""Transforms by preset, spelled out, or taken from published weights: the libraries' own, bit for bit."""

import copy
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision import models

from rmpsweep.data import TRANSFORMS, Transform
from rmpsweep.errors import DataError, NetworkError, ResultsError, SweepError
from rmpsweep.models.published import published_accuracy, published_transform
from rmpsweep.pipeline.compute import save
from rmpsweep.pipeline.look import look
from rmpsweep.pipeline.prepare import prepare, working_on
from rmpsweep.sweep.file import dump_sweep, load_sweep, parse_sweep

PUBLISHED = [
    (name, weights) for name in models.list_models(module=models) for weights in models.get_model_weights(name)
]
SIZES = [(500, 375), (333, 501), (231, 641), (61, 97), (257, 1023)]
"""Width and height in pixels: either side the shorter one, odd, and one that has to grow."""


def jpegs() -> list[Image.Image]:
    """Noise over a gradient, with edges that a resize must filter, through JPEG."""
    generator, images = np.random.default_rng(0), []
    for width, height in SIZES:
        ramp = np.linspace(0, 200, width)[None, :, None] * np.ones((height, 1, 3))
        pixels = np.clip(ramp + generator.integers(0, 56, (height, width, 3)), 0, 255).astype(np.uint8)
        pixels[:: max(2, height // 7)] = 255
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        images.append(Image.open(buffer).convert("RGB"))
    return images


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet34", "IMAGENET1K_V1"),  # bilinear, 256 to 224
        ("resnet50", "IMAGENET1K_V2"),  # bilinear, 232 to 224
        ("convnext_tiny", "IMAGENET1K_V1"),  # bilinear, 236 to 224
        ("efficientnet_b0", "IMAGENET1K_V1"),  # bicubic, 256 to 224
        ("regnet_y_16gf", "IMAGENET1K_SWAG_E2E_V1"),  # bicubic, 384 to 384
        ("vgg16", "IMAGENET1K_FEATURES"),  # a mean and std of its own
    ],
)
def test_images_equal_those_of_torchvisions_own_preset_objects(name: str, weights: str) -> None:
    preset = models.get_model_weights(name)[weights].transforms()
    transform = published_transform(f"torchvision:{name}", Path(weights))
    images = jpegs()
    pixels = transform.pixels(images)
    unnormalised = copy.copy(preset)
    unnormalised.mean, unnormalised.std = [0.0] * 3, [1.0] * 3
    expected = torch.stack([unnormalised(image) for image in images])
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, expected.mul(255).round().to(torch.uint8))
    assert torch.equal(transform.normalise(pixels, 255), torch.stack([preset(image) for image in images]))


def test_every_classifier_of_torchvision_says_its_transform_by_name_and_by_file_name() -> None:
    for name, weights in PUBLISHED:
        preset = weights.transforms()
        expected = Transform(
            resize=preset.resize_size[0],
            crop=preset.crop_size[0],
            interpolation=preset.interpolation.value,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )
        assert published_transform(f"torchvision:{name}", Path(weights.name)) == expected, weights
        file = Path("/somewhere") / weights.url.rpartition("/")[2]
        assert published_transform("mynets.nets:network", file) == expected, weights
    assert len(PUBLISHED) > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34.a1_in1k", "resnet18.tv_in1k", "vgg16_bn.tv_in1k"])
def test_images_equal_those_of_timms_own_transform(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is optional")
    from timm.data import create_transform, resolve_data_config

    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = create_transform(**config, is_training=False)
    images = jpegs()
    for weights in ("pretrained", "/downloads/model.safetensors"):
        transform = published_transform(f"timm:{name}", Path(weights))
        assert torch.equal(
            transform.normalise(transform.pixels(images), 255), torch.stack([theirs(image) for image in images])
        )


@pytest.mark.parametrize(
    ("network", "weights", "error", "message"),
    [
        (
            "vgg-small",
            "mine.safetensors",
            DataError,
            "known for the weights mine.safetensors of vgg-small; .*unit, cifar",
        ),
        ("torchvision:resnet34", "mine.pth", DataError, "no transform is known .*imagenet-224.* or give resize, inter"),
        ("vgg-small", None, DataError, "no transform is known"),
        ("torchvision:resnet34", "IMAGENET1K_V9", NetworkError, "got 'IMAGENET1K_V9', expected .*IMAGENET1K_V1"),
        ("torchvision:resnet35", "IMAGENET1K_V1", NetworkError, "no such classifier; did you mean .*resnet34"),
        ("timm:resnet34.v9", "pretrained", NetworkError, r"Invalid pretrained tag \(v9\)"),
        ("timm:resnet34", "mine.pth", DataError, "no transform is known"),
    ],
)
def test_weights_that_name_no_transform_are_refused(
    network: str, weights: str | None, error: type, message: str
) -> None:
    if network.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is optional")
    with pytest.raises(error, match=message):
        published_transform(network, None if weights is None else Path(weights))


def test_a_transform_of_timms_that_is_none_of_ours_is_refused() -> None:
    timm = pytest.importorskip("timm", reason="timm is optional")
    squashed = next(
        name for name in timm.list_models(pretrained=True) if timm.get_pretrained_cfg(name).crop_mode == "squash"
    )
    with pytest.raises(DataError, match="crop_mode 'squash', expected a square and 'center'; name a preset"):
        published_transform(f"timm:{squashed}", Path("pretrained"))


def test_accuracies_that_torchvision_states() -> None:
    assert published_accuracy("torchvision:resnet34", Path("IMAGENET1K_V1")) == pytest.approx(0.73314)
    assert published_accuracy("mynets.nets:network", Path("x/resnet50-11ad3fa6.pth")) == pytest.approx(0.80858)
    assert published_accuracy("torchvision:vgg16", Path("IMAGENET1K_FEATURES")) is None
    assert published_accuracy("torchvision:resnet34", Path("mine.pth")) is None
    assert published_accuracy("vgg-small", Path("mine.safetensors")) is None


SWEEP = """
name: t
network: {{name: "torchvision:resnet18", weights: {weights}}}
data: {{source: parquet, path: {folder}, split: x, calibration_split: x, transform: {transform}}}
grid: {{alpha: [1.0]}}
time_steps: [2]
"""
SAME = [
    "imagenet-224",
    "weights",
    "{resize: 256, crop: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}",
    "{resize: 256, interpolation: bilinear, crop: 224, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}",
]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a sweep with that transform, over three JPEGs and a file named as torchvision names resnet18's."""
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))
    records = []
    for number, image in enumerate(jpegs()[:3]):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG")
        records.append({"bytes": buffer.getvalue(), "path": f"{number}.jpg"})
    pq.write_table(pa.table({"image": records, "label": [0, 1, 2]}), tmp_path / "x.parquet")
    weights = tmp_path / "resnet18-f37072fd.pth"
    weights.write_bytes(b"weights")

    def sweep(transform: str) -> str:
        path = tmp_path / "sweep.yaml"
        path.write_text(SWEEP.format(weights=weights, folder=tmp_path, transform=transform))
        return str(path)

    return sweep


def test_equal_transforms_are_one_however_they_are_named(write, tmp_path: Path) -> None:
    prepared = [prepare(load_sweep(write(transform)), tmp_path / "results") for transform in SAME]
    assert len({str(each.plan) for each in prepared}) == 1
    first = prepared[0]
    assert first.sweep.data.transform == TRANSFORMS["imagenet-224"]
    assert len({dump_sweep(each.sweep) for each in prepared}) == 1
    assert "resize: 256" in dump_sweep(first.sweep)
    assert parse_sweep(dump_sweep(first.sweep), "sweep.yaml") == first.sweep
    other = prepare(load_sweep(write("imagenet-224-bicubic")), tmp_path / "results")
    assert other.plan.facts.data_fingerprint != first.plan.facts.data_fingerprint


def test_results_are_found_again_under_any_name_and_not_under_another_transform(write, tmp_path: Path) -> None:
    results = tmp_path / "results"
    prepared = prepare(load_sweep(write("imagenet-224")), results)
    save(prepared, look(prepared))
    for transform in SAME:
        sweep = load_sweep(write(transform))
        with working_on(results, print, sweep):
            prepare(sweep, results)
    with pytest.raises(ResultsError, match=r"another sweep .data.transform Transform.*'bilinear'.*here .*'bicubic'"):
        prepare(load_sweep(write("imagenet-224-bicubic")), results)


def test_a_sources_own_transform_is_spelled_out_too() -> None:
    sweep = load_sweep("quickstart")
    assert sweep.data.transform == TRANSFORMS["unit"]
    assert parse_sweep(dump_sweep(sweep), "sweep.yaml") == sweep


def test_interpolation_without_a_resize_is_no_difference() -> None:
    assert Transform(crop=8, interpolation="bicubic") == Transform(crop=8)


@pytest.mark.parametrize(
    ("transform", "messages"),
    [
        ("vit", ["data: transform: got 'vit'", "unit, cifar10", "weights, or a mapping of resize, interpolation"]),
        ("[256]", ["data.transform: got [256]", "a mapping"]),
        ("{resise: 256}", ["data.transform.resise: unknown key", "resize, interpolation, crop, mean, std"]),
        ("{resize: 0}", ["data.transform: resize: got 0, expected 1 pixel or more"]),
        ("{crop: -1}", ["crop: got -1, expected 1 pixel or more"]),
        ("{crop: wide}", ["data.transform.crop: got 'wide'", "integer"]),
        ("{interpolation: lanczos}", ["data.transform.interpolation: got 'lanczos'", "'bilinear' or 'bicubic'"]),
        ("{mean: [0.5, 0.5], std: [0.5]}", ["mean, std: got 2 and 1 values"]),
        ("{mean: [0.5], std: [0.0]}", ["std: got [0.0], expected finite numbers > 0"]),
        ("{mean: [.nan], std: [1]}", ["mean: got [nan], expected finite numbers"]),
        ("{mean: 0.5}", ["data.transform.mean: got 0.5", "a list"]),
    ],
)
def test_an_invalid_transform_is_refused_in_one_line(transform: str, messages: list[str], write) -> None:
    with pytest.raises(SweepError) as caught:
        load_sweep(write(transform))
    for message in messages:
        assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
