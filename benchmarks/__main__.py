"""Simulated image-steps per second: the bare ANN (the dense limit), SpikingJelly step by step, and rmpsweep.

Every contender does the same work, N images x T steps of one converted network, in turn; medians of several rounds,
and ratios, since the machine's speed drifts. Run: make bench
"""

import statistics
import time
from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

from rmpsweep import environment
from rmpsweep.engine import calibrate, convert, simulate
from rmpsweep.models.registry import build

ROUNDS = 5
CASES = (("vgg-small", 8, 1, 128, 32), ("resnet20", 32, 3, 32, 8))


def spiking_twin(ann: nn.Module, thresholds: dict[str, Tensor]) -> nn.Module:
    """The same network with SpikingJelly's soft-reset IFNode in place of each ReLU."""
    for name, _ in [(n, m) for n, m in ann.named_modules() if isinstance(m, nn.ReLU)]:
        parent, _, child = name.rpartition(".")
        node = neuron.IFNode(v_threshold=float(thresholds[name]), v_reset=None)
        setattr(ann.get_submodule(parent), child, node)
    return ann.eval()


def contenders(name: str, size: int, channels: int, num_images: int, steps: int) -> dict[str, Callable[[], None]]:
    """What is timed; each does num_images x steps image-steps."""
    torch.manual_seed(0)
    images = torch.rand(num_images, channels, size, size)
    ann = build(name, 10, channels, size).eval()
    net = convert(ann, images[:2])
    thresholds = calibrate(net, images[:16], "activation_max", batch_size=16)
    peer = spiking_twin(build(name, 10, channels, size), thresholds)

    def bare() -> None:
        for _ in range(steps):
            ann(images)

    def spikingjelly() -> None:
        functional.reset_net(peer)
        sum(peer(images) for _ in range(steps))

    return {
        "ANN x T": bare,
        "SpikingJelly 's'": spikingjelly,
        "rmpsweep float32": lambda: simulate(net, images, thresholds, [steps]) and None,
    }


@torch.no_grad()
def main() -> None:
    """Print the table."""
    versions = environment.versions()
    print(f"{environment.hardware()}; torch {versions['torch']}, {torch.get_num_threads()} threads; {ROUNDS} rounds")
    print(f"{'network':12} {'contender':18} {'image-steps/s':>14} {'to ANN x T':>11}")
    for name, size, channels, num_images, steps in CASES:
        runs = contenders(name, size, channels, num_images, steps)
        seconds: dict[str, list[float]] = {label: [] for label in runs}
        for round_ in range(ROUNDS + 1):
            for label, run in runs.items():
                began = time.perf_counter()
                run()
                if round_:
                    seconds[label].append(time.perf_counter() - began)
        for label, times in seconds.items():
            pairs = [limit / own for limit, own in zip(seconds["ANN x T"], times, strict=True)]
            rate = num_images * steps / statistics.median(times)
            print(f"{name:12} {label:18} {rate:14,.0f} {statistics.median(pairs):11.2f}")


main()
