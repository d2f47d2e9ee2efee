"""Measures image-steps per second and peak memory of rmpsweep, its peers, and the bare ANN (the dense limit).

One process times all contenders. In each round every contender runs once, in turn, since a machine's speed drifts. A
child process for each contender measures memory. Run `make bench` (about a quarter of an hour on 2 cores) or
`python -m benchmarks --help`.
"""

import argparse
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks import actors, decode, measure, rates, scaling, sweep
from benchmarks.contenders import OURS, available
from benchmarks.networks import CASES
from benchmarks.table import MIB, time_case
from rmpsweep import environment

SWEEP_IMAGES, SWEEP_IMAGES_FULL = 32, 256


def main() -> None:
    """Run the benchmarks that the options name, print their tables, and write the figures if a file is named."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory:
        print(measure.answer_memory(*options.memory))
        return
    labels, lines = available()
    ours = [label for label in labels if label in OURS]
    figures: dict[str, Any] = {
        "hardware": environment.hardware(),
        "versions": environment.versions() | _peer_versions(),
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "left_out": lines,
    }
    named = ("python", "torch", "rmpsweep", "spikingjelly", "snntorch")
    versions = ", ".join(f"{name} {figures['versions'][name]}" for name in named if name in figures["versions"])
    print(f"{figures['hardware']}; {figures['threads']} threads\n{versions}")
    print(
        f"{options.rounds} rounds in alternation. A run of N images x T steps takes {measure.TARGET_S:g} s or more: "
        f"faster contenders take more steps (T up to {measure.MAX_STEPS}); rates are per image-step.\n"
        "Ratios are medians over the rounds; above 1, the contender is faster than the other. Peak is the memory that "
        "the run adds.",
        *lines,
        sep="\n",
    )
    timed = {name: time_case(CASES[name], labels, options.rounds) for name in options.cases}
    figures["cases"] = [case.figures for case in timed.values()]
    num_images = SWEEP_IMAGES_FULL if options.full else options.sweep_images
    if num_images and sweep.CASE.network in timed:
        figures["sweep"] = {"num_images": num_images}
        figures["sweep"]["rows"] = sweep.run(ours, num_images, timed[sweep.CASE.network].best_peer)
        print_sweep(figures["sweep"])
    if options.scaling:
        figures["scaling"] = scaling.run(next((label for label in ours if "fixed16" in label), ours[0]), options.rounds)
        print_scaling(figures["scaling"])
    if options.rates:
        numerics = "fixed16"
        figures["rates"] = {"network": rates.CASE.network, "numerics": numerics}
        figures["rates"]["rows"] = rates.run(numerics, options.rounds)
        print_rates(figures["rates"])
    if options.actors:
        figures["actors"] = actors.run(options.rounds)
        print_actors(figures["actors"])
    if options.decode:
        figures["decode"] = decode.run(options.rounds)
        print_decode(figures["decode"])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def print_sweep(done: dict[str, Any]) -> None:
    """Print the table of the sweep."""
    steps = ", ".join(map(str, sweep.TIME_STEPS))
    print(f"\nsweep: {sweep.CASE.network}, {len(sweep.TRIALS)} trials (8 α x 2 resets), T = {steps} from one run")
    print(f"each, {done['num_images']} images (of a full sweep's {SWEEP_IMAGES_FULL}), one round")
    columns = "{:18} {:>20} {:>9} {:>13} {:>15} {:>17}"
    print(
        columns.format("contender", "batch, format", "seconds", "image-steps/s", "to SpikingJelly", "equal predictions")
    )
    for row in done["rows"]:
        numbers = f"{row['seconds']:.1f}", f"{row['image_steps_per_s']:,.0f}", f"{row['to_spikingjelly']:.2f}"
        print(columns.format(row["contender"], row["form"], *numbers, f"{row['equal_predictions']:.2%}"))


def print_scaling(done: dict[str, Any]) -> None:
    """Print seconds by T and by number of trials, the slopes of both, and peak memory by T."""
    print(f"\nscaling: {done['contender']}, {scaling.CASE.network}, {done['num_images']} images; slope 1 is linear")
    for what, unit in (("steps", "T, 1 trial"), ("trials", f"trials, T = {scaling.TIME_STEPS[0]}")):
        points = ", ".join(f"{size}: {spent:.2f}" for size, spent in done[f"seconds_by_{what}"].items())
        print(f"seconds by {unit}: {points}; slope {done[f'slope_by_{what}']:.2f}")
    peaks = ", ".join(f"{steps}: {peak / MIB:,.0f}" for steps, peak in done["peak_bytes_by_steps"].items())
    print(f"peak MiB by T, 1 trial: {peaks}")


def print_rates(done: dict[str, Any]) -> None:
    """Print image-steps per second by firing rate."""
    print(
        f"\nfiring: {done['network']}, {done['numerics']}, T = {rates.STEPS}\n{'firing rate':>11} {'image-steps/s':>14}"
    )
    for row in done["rows"]:
        print(f"{row['firing_rate']:11.4f} {row['image_steps_per_s']:14,.0f}")


def print_actors(done: dict[str, Any]) -> None:
    """Print the speeds of launches with two actors and with one."""
    print(
        f"\nactors: {actors.CASE.network}, 8 trials x T = 64, {done['images']} images, launched from the command line"
    )
    for label, rate in done["image_steps_per_s"].items():
        print(f"{label:24} {rate:,.0f} image-steps/s, first unit after {done['seconds_to_first_unit'][label]:.1f} s")
    print(f"two to one: {done['ratio']:.2f}")


def print_decode(done: dict[str, Any]) -> None:
    """Print the images decoded per second against the peer, and how long the engine waited for input."""
    print(f"\ndecode: {done['images']} to 224 pixels, {decode.IMAGES} a run; each on as many cores as it has workers")
    for workers, compared in done["workers"].items():
        rates = ", ".join(f"{label} {rate:,.0f}" for label, rate in compared["images_per_s"].items())
        ratios = ", ".join(f"{label} {ratio:.2f}" for label, ratio in compared["ratio"].items())
        print(f"{workers} workers: images/s {rates}; of the loader's {ratios}")
    launch = done["launch"]
    print(
        f"launch of {decode.CASE.network}, {done['simulated']} images, T = {done['steps']}: the engine waited for input"
    )
    print(f"{launch['wait_s']:.2f} of {launch['wait_s'] + launch['busy_s']:.1f} s, {launch['wait_fraction']:.2%}")


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--cases", type=_cases, default=list(CASES), help=f"some of {','.join(CASES)}; or none")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds")
    parser.add_argument("--threads", type=int, help="number of torch's threads; default is torch's own choice")
    parser.add_argument(
        "--sweep-images", type=int, default=SWEEP_IMAGES, help="number of images of the sweep on resnet20; 0 omits it"
    )
    parser.add_argument("--full", action="store_true", help=f"the same as --sweep-images {SWEEP_IMAGES_FULL}")
    parser.add_argument("--scaling", action="store_true", help="also measure time against T and number of trials")
    parser.add_argument("--rates", action="store_true", help="also measure speed against firing rate")
    parser.add_argument(
        "--actors", action="store_true", help="also time whole launches with two actors against one on one core"
    )
    parser.add_argument(
        "--decode", action="store_true", help="also measure images decoded, against torchvision's DataLoader"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file to write all figures to")
    parser.add_argument(
        "--memory",
        nargs=3,
        metavar=("CASE", "CONTENDER", "WORK"),
        help="only print resident bytes before one run and at its peak; WORK is "
        "[batch, chunk, channels_last, images, steps]",
    )
    return parser.parse_args()


def _cases(text: str) -> list[str]:
    names = [] if text == "none" else text.split(",")
    if unknown := set(names) - CASES.keys():
        raise argparse.ArgumentTypeError(f"got {', '.join(sorted(unknown))}, expected some of {','.join(CASES)}")
    return names


def _peer_versions() -> dict[str, str]:
    installed = {distribution.name for distribution in metadata.distributions()}
    return {name: metadata.version(name) for name in ("spikingjelly", "snntorch") if name in installed}


main()
