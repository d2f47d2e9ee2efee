"""The engine: what a converted network computes.

The engine takes tensors and returns tensors. It knows nothing of sweeps, files or clusters. Its two main functions are
`convert`, which makes a network of spiking layers from an ANN, and `simulate`, which runs that network under settings.

The law
    neuron       the integrate-and-fire neuron, and the codes of its resets
    encode       turns images into input currents or spikes
    scales       thresholds, what a spike of each layer is worth, and what α does to both
    response     how one neuron responds to a regular input train

From the ANN to the network
    convert      turns the ANN's traced graph into nodes, and refuses what it does not know
    trace        records a forward pass as a graph of tensor operations
    operators    the operations that `convert` knows, by their names in torch
    batch_norm   folds batch norm into the layer before it
    network      the nodes, their weights, and the ANN's own activations
    activity     counts the additions that one spike causes, and the multiply-accumulates of the ANN

From settings to numbers
    numerics     what a calibrated setting is, and the rules of floating point and of the integer grid
    builder      the walk over the nodes that floating point and the integer grid share
    constants    computes weights, thresholds, biases and factors for settings that share weights
    grid         does so on the integer grid, and tells what rounding changes in every layer

From numbers to spikes
    simulate     `simulate` and `simulate_many`: group settings, and split what was computed into their results
    batches      divides rows into batches, one for each thread, and smaller ones when memory runs out
    reference    the time loop node by node: slow, obvious, and what every fast path must equal
    program      decides which nodes run together as one stage
    execute      the time loop of a program, a chunk of steps at a time
    kernels      the interface of the code that computes the stages, and what both devices share
    cpu, gpu     the kernels of each device
    compiled     how Numba compiles, and where the machine code is cached
    memory       decides how many rows and steps are computed at once

On top of them
    calibrate    finds thresholds from images
    agreement    checks whether the rates of the layers converge to the ANN's activations
"""

from rmpsweep.engine.activity import dense_macs, fan_out
from rmpsweep.engine.calibrate import calibrate
from rmpsweep.engine.convert import convert
from rmpsweep.engine.network import SpikingNetwork
from rmpsweep.engine.numerics import CalibratedSetting
from rmpsweep.engine.reference import State
from rmpsweep.engine.scales import thresholds_from_scales
from rmpsweep.engine.simulate import Simulation, rounding_errors, simulate, simulate_many
from rmpsweep.terms import ENGINE_VERSION

__all__ = [
    "ENGINE_VERSION",
    "CalibratedSetting",
    "Simulation",
    "SpikingNetwork",
    "State",
    "calibrate",
    "convert",
    "dense_macs",
    "fan_out",
    "rounding_errors",
    "simulate",
    "simulate_many",
    "thresholds_from_scales",
]
