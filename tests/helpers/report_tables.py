"""Makes tables of a sweep that never ran, for tests of the report."""

import re
from html import unescape

import numpy as np
import pyarrow as pa

from rmpsweep.report import ReportInfo
from tests.helpers.summary_rows import summary_row

IMAGES = 60
ANN_CORRECT = 50
TIME_STEPS = (8, 16, 32)
LAYERS = {"input": 48, "conv1": 512, "fc1": 10}
RULES = ("vin_max", "activation_p99.9")
ALPHAS = (0.5, 1.0)
INFO = ReportInfo(
    name="small sweep",
    network="vgg11",
    dataset="digits",
    ann_correct=ANN_CORRECT,
    ann_images=IMAGES,
    images_planned=IMAGES,
    images_skipped=0,
    versions={"torch": "2.6.0+cpu"},
    hardware="2 cores",
    sweep_yaml="grid:\n  alpha: [0.5, 1.0]\n",
)


def right(t: int, reset: str, number: int, images: int) -> np.ndarray:
    """Whether a trial classifies each image correctly at T = t, bool [images]."""
    return np.arange(images) < (10 + t) * (1.2 if reset == "soft" else 1) + number


def tables(
    images: int = IMAGES,
    rules: tuple[str, ...] = RULES,
    alphas: tuple[float, ...] = ALPHAS,
    time_steps: tuple[int, ...] = TIME_STEPS,
    layers: dict[str, int] = LAYERS,
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Make summary, activity and predictions over `images` images, of trials that differ in rule, α and reset."""
    summary, activity, predictions = [], [], []
    trials = [(rule, alpha, reset) for rule in rules for alpha in alphas for reset in ("hard", "soft")]
    for number, (rule, alpha, reset) in enumerate(trials):
        trial_id = f"{number:016x}"
        for t in time_steps:
            correct = right(t, reset, number, images)
            spikes = {layer: neurons * t * images // (number + 3) for layer, neurons in layers.items()}
            settings = {"threshold": rule, "alpha": alpha, "alpha_scope": "network", "reset": reset}
            costs = {
                "spikes_per_image": sum(spikes.values()) / images,
                "firing_rate": 1 / (number + 3),
                "synops_per_image": 9 * sum(spikes.values()) / images,
            }
            summary.append(
                summary_row(
                    trial_id,
                    t,
                    int(correct.sum()),
                    images,
                    network=INFO.network,
                    dataset=INFO.dataset,
                    numerics="float32",
                    images_planned=IMAGES,
                    top5=min(1.0, correct.mean() + 0.1),
                    ann_accuracy=ANN_CORRECT / IMAGES,
                    **settings,
                    **costs,
                )
            )
            activity += [
                {"trial_id": trial_id, "layer": layer, "time_steps": t, "neurons": neurons, "images": images}
                | {"spikes": spikes[layer], "synops": 9 * spikes[layer], "saturated": 0}
                for layer, neurons in layers.items()
            ]
            predictions += _said(trial_id, t, correct)
    activity += [
        {"trial_id": "ann", "layer": layer, "time_steps": 0, "neurons": neurons, "images": images}
        | {"spikes": 0, "synops": 9 * neurons * images, "saturated": 0}
        for layer, neurons in layers.items()
    ]
    predictions += _said("ann", 0, np.arange(images) < ANN_CORRECT)
    return tuple(pa.Table.from_pylist(rows) for rows in (summary, activity, predictions))


def _said(trial_id: str, t: int, correct: np.ndarray) -> list[dict]:
    """Make rows of predictions of three classes; an image that is classified wrongly is taken for the next class."""
    return [
        {"trial_id": trial_id, "image_id": i, "label": i % 3, "time_steps": t, "prediction": (i + (not right)) % 3}
        | {"label_rank": 0 if right else 7, "correct": bool(right)}
        for i, right in enumerate(correct)
    ]


def text_of(page: str) -> str:
    """The text that a reader of the page sees, without style, scripts and tags, and with white space collapsed."""
    without_code = re.sub(r"<(style|script)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", without_code)).split())
