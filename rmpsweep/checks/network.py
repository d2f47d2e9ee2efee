"""What `rmpsweep check` does: it converts a network, calibrates it on a few images, and compares it with the ANN."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmpsweep.data import image_order
from rmpsweep.data.transforms import WEIGHTS
from rmpsweep.errors import CalibrationError, NetworkError, SweepError
from rmpsweep.models.external import find_published, is_external
from rmpsweep.models.published import published_transform
from rmpsweep.models.registry import NETWORKS, build_any, build_from_module, is_known
from rmpsweep.models.weights import SUFFIXES, count_classes, put_weights, read_weights
from rmpsweep.pipeline.weights import find_weights, with_transform
from rmpsweep.sweep.schema import Data, Sweep
from rmpsweep.sweep.thresholds import find_own_rule, read_threshold_file
from rmpsweep.terms import Setting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rmpsweep.engine import SpikingNetwork
    from rmpsweep.engine.agreement import Agreement

IMAGENET_SHAPE, IMAGENET_CLASSES = (3, 224, 224), 1000


@dataclass(frozen=True)
class Subject:
    """A converted network, and the images that it is checked on."""

    label: str
    """What the network is called."""
    weights: str
    """Where the weights come from, in words."""
    origin: str
    """Where the images come from, in words."""
    net: "SpikingNetwork"
    images: "Tensor"
    """[N, C, H, W]."""
    warnings: tuple[str, ...]
    """Warnings of the conversion."""


@dataclass(frozen=True)
class Rounding:
    """Where rounding to the integer grid is expected to change most."""

    layer: str
    alpha: float
    deviation: float
    """The standard deviation of what it changes in the layer's current in one step, in thresholds."""


@dataclass(frozen=True)
class Checked:
    """The result of a check."""

    subject: Subject
    agreement: "Agreement"
    rounding: Rounding | None
    """None in floating point."""
    warnings: tuple[str, ...]
    """Warnings of conversion and calibration, and about settings that make the spiking network unfaithful."""

    def summary(self) -> str:
        """The result in one sentence."""
        subject, found = self.subject, self.agreement
        parting, layers = found.parting, [layer.layer for layer in found.layers]
        starting = sum(layer.verdict == "starting" for layer in found.layers)
        what = (
            f"{subject.label}, weights {subject.weights}, {found.images} {subject.origin}, T = {found.time_steps[-1]}"
        )
        if parting is not None:
            said = parting.verdict if parting.verdict != "parts here" else "its error does not fall as 1/T"
            where = f"layer {layers.index(parting.layer) + 1} of {len(layers)}"
            return f"{what}: ANN and spiking network part at {parting.layer} ({where}): {said}"
        if starting:
            return f"{what}: no layer parts, {starting} of {len(layers)} are still starting; give more --time-steps"
        return f"{what}: all {len(layers)} spiking layers agree with the ANN"

    def document(self) -> dict[str, Any]:
        """The result as plain values, for JSON."""
        parting = self.agreement.parting
        return {
            "network": self.subject.label,
            "weights": self.subject.weights,
            "images_of": self.subject.origin,
            "agrees": parting is None,
            "parts_at": None if parting is None else parting.layer,
            **asdict(self.agreement),
            "rounding": None if self.rounding is None else asdict(self.rounding),
            "warnings": self.warnings,
        }


def is_network(target: str) -> bool:
    """Whether an argument names a network (in the registry, in a library, or as module:factory) and not a sweep."""
    return is_known(target) or (":" in target and not Path(target).exists())


def load_sweeps_network(sweep: Sweep, num_images: int) -> Subject:
    """Load the network of a sweep, and the first images of its evaluated split in the sweep's order.

    Raises:
        NetworkError, DataError: the network or the images are unusable, as a worker would find them.
        NetworkError: the weights have not been trained yet.
    """
    from rmpsweep.workers.loading import load_network, open_evaluated

    sweep = with_transform(sweep)
    weights = find_weights(sweep, download=True)
    if weights.recipe is not None:
        raise NetworkError(f"{weights.path}: the weights are still to be trained; launch trains them")
    split = open_evaluated(sweep)
    with _noting() as notes:
        _, net = load_network(sweep, weights.path, split)
    images, _ = split.load(image_order(split.num_images)[:num_images])
    return Subject(sweep.network.label, str(weights.path), f"images of {split.name}", net, images, tuple(notes))


def load_named_network(
    name: str, weights: str | None, data: Data | None, image_shape: tuple[int, int, int] | None, num_images: int
) -> Subject:
    """Load a network by name, with images of a data source or random images.

    Args:
        name: a name that `is_network` accepts.
        weights: a file, or the name of weights that the network's library publishes; None for random weights (seed 0).
        data: where the images come from; None for random images (normally distributed, seed 0).
        image_shape: the shape [C, H, W] of random images; None for the size that the network is made for.
    Raises:
        NetworkError, DataError: the network cannot be built or converted, the weights do not fit, or the images are
            unusable.
    """
    import torch

    from rmpsweep.engine import convert

    given = None if weights is None else Path(weights)
    if data is None:
        shape = image_shape or _usual_shape(name)
        images = torch.randn(num_images, *shape, generator=torch.Generator().manual_seed(0))
        origin = f"random images of {'x'.join(map(str, shape))}"
    else:
        if data.transform == WEIGHTS:
            data = data.model_copy(update={"transform": published_transform(name, given)})
        split = data.open(data.split, download=True)
        images, _ = split.load(image_order(split.num_images)[:num_images])
        origin = f"images of {split.name}"
    ann = _build(name, _find(name, given), tuple(images.shape[1:]))
    with _noting() as notes:
        net = convert(ann.eval(), images[:1])
    return Subject(name, weights or "random (seed 0)", origin, net, images, tuple(notes))


def check_network(subject: Subject, setting: Setting, time_steps: int, alphas: Sequence[float] = (1.0,)) -> Checked:
    """Find the thresholds on the images, or take those that the setting gives; then compare the network with the ANN.

    Both steps use α = 1 and constant input.

    Args:
        setting: the comparison ignores its α, encoding, v_init and seed. What rounding changes is computed for its own
            encoding, and for the α in `alphas`.
        time_steps: T, a multiple of 4.
        alphas: the α at which the network will be simulated.
    Raises:
        CalibrationError: the rule finds no threshold above 0 for a layer, the thresholds of a file or of a rule from
            outside the package do not fit or cannot be found, or the numerics cannot hold the network at α = 1 or at
            one of the α.
        SweepError: time_steps is not a multiple of 4.
    """
    from rmpsweep.engine import calibrate
    from rmpsweep.engine.agreement import biased_pools, biased_reset, compare_layers
    from rmpsweep.workers.loading import given_thresholds, own_thresholds

    if time_steps < 4 or time_steps % 4:
        raise SweepError(
            f"--time-steps: got {time_steps}, expected a multiple of 4, since rates are compared at T/4 and T/2 too"
        )
    net, images = subject.net, subject.images
    with _noting() as notes:
        if setting.threshold_file is not None:
            thresholds = given_thresholds(net, read_threshold_file(setting.threshold_file), setting)
        elif setting.given_by is not None:
            thresholds = own_thresholds(net, images, find_own_rule(setting.given_by), setting)
        else:
            thresholds = calibrate(
                net,
                images.double(),
                setting.threshold,
                setting.granularity,
                "constant",
                input_scale=setting.input_scale,
                max_pool=setting.max_pool,
                batch_size=1,
            )
        found = compare_layers(
            net,
            images,
            thresholds,
            time_steps,
            alpha_scope=setting.alpha_scope,
            reset=setting.reset,
            max_pool=setting.max_pool,
            numerics=setting.numerics,
        )
        rounding = _largest_rounding(subject, setting, thresholds, alphas)
    unfaithful = [
        f"max_pool: {setting.max_pool} at node {pool!r} is biased: its rate is not the largest rate of the window, and "
        "more time steps do not help; use max_pool: count"
        for pool in biased_pools(net, setting.max_pool)
    ]
    if why := biased_reset(setting.reset):
        unfaithful.append(f"reset: {setting.reset} is biased: it {why}; use reset: soft")
    return Checked(subject, found, rounding, (*subject.warnings, *notes, *unfaithful))


def _largest_rounding(
    subject: Subject, setting: Setting, thresholds: "Mapping[str, Tensor]", alphas: Sequence[float]
) -> Rounding | None:
    from rmpsweep.engine import rounding_errors

    found = []
    for alpha in alphas:
        try:
            deviations = rounding_errors(subject.net, subject.images, replace(setting, alpha=alpha), thresholds)
        except CalibrationError as error:
            raise CalibrationError(f"α {alpha:g}: {error}") from error
        found += [Rounding(layer, alpha, deviation) for layer, deviation in deviations.items()]
    return max(found, key=lambda each: each.deviation, default=None)


@contextlib.contextmanager
def _noting() -> Iterator[list[str]]:
    """Catch warnings. The list that is given holds their texts, each once, when the context has ended."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield notes
    notes += dict.fromkeys(str(each.message) for each in caught)


def _find(name: str, weights: Path | None) -> Path | None:
    """Return the file of the weights; published weights are fetched first."""
    if weights is None or weights.suffix in SUFFIXES or not is_external(name):
        return weights
    return find_published(name, str(weights), download=True)[0]


def _build(name: str, weights: Path | None, shape: Sequence[int]) -> "nn.Module":
    """Build the network for images of shape [C, H, W]. A known network gets as many classes as the weights have."""
    import torch

    channels, size = shape[0], (shape[1], shape[2])
    state = None if weights is None else read_weights(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if not is_known(name):
            ann = build_from_module(name)
        else:
            classes = IMAGENET_CLASSES if is_external(name) else NETWORKS[name].inputs[0][2]
            if state is not None:
                with torch.device("meta"):
                    classes = count_classes(build_any(name, classes, channels, size), state) or classes
            ann = build_any(name, classes, channels, size)
    if state is not None and weights is not None:
        put_weights(ann, state, weights)
    return ann


def _usual_shape(name: str) -> tuple[int, int, int]:
    if name not in NETWORKS:
        return IMAGENET_SHAPE
    channels, side, _ = NETWORKS[name].inputs[0]
    return channels, side, side
