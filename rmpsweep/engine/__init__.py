"""What a converted network computes. Takes tensors, returns tensors; knows nothing of sweeps, files or clusters.

Two lines of work meet here. `convert` makes a network of spiking layers from an ANN; `simulate` runs it under settings.

The law
    neuron       the integrate-and-fire neuron, and the codes of its resets
    encode       images to input currents or spikes
    scales       thresholds, what a spike of each layer is worth, and what α does to them
    response     what one neuron makes of a regular input train

From the ANN to the network
    convert      the ANN's traced graph to nodes, every one of them known or refused
    trace        a forward pass as a graph of tensor operations
    operators    which operations there are, by their names in torch
    batch_norm   batch norm folded into the layer before it
    network      the nodes, their weights, and the ANN's own activations
    activity     additions that one spike causes; multiply-accumulates of the ANN

From settings to numbers
    numerics     what a setting is, and the rule of floating point and of the integer grid
    builder      what both have in common: a walk over the nodes
    constants    weights, thresholds, biases and factors of settings that share weights

From numbers to spikes
    simulate     `simulate` and `simulate_many`: settings into groups, rows into results
    batches      rows divided into batches, one for each thread; what happens when memory is short
    reference    the time loop node by node: slow, obvious, and what everything else must equal
    program      which nodes run together as one stage
    execute      the time loop of a program, a chunk of steps at a time
    kernels      what computes the stages: the interface, and what both devices share
    cpu, gpu     the kernels of each device
    compiled     how Numba compiles, and where it keeps the result
    memory       how many rows and steps at once

On top of them
    calibrate    thresholds from images
    agreement    whether the rates of the layers are the ANN's activations
"""

from rmpsweep.engine.activity import dense_macs, fan_out
from rmpsweep.engine.calibrate import calibrate
from rmpsweep.engine.convert import convert
from rmpsweep.engine.network import SpikingNetwork
from rmpsweep.engine.numerics import CalibratedSetting
from rmpsweep.engine.reference import State
from rmpsweep.engine.scales import thresholds_from_scales
from rmpsweep.engine.simulate import Simulation, simulate, simulate_many
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
    "simulate",
    "simulate_many",
    "thresholds_from_scales",
]
