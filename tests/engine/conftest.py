"""In every test of the engine, memory that nobody has written holds values that a kernel cannot overlook."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rmpsweep.engine.cpu.workspace import Workspace

POISON = 0xA5
"""The byte of integers that nobody has written. Floating point is NaN, since these bytes are almost 0 there."""


def poison(tensor: Tensor) -> Tensor:
    """The same tensor; every byte of the memory behind it is overwritten."""
    if not tensor.is_meta:
        tensor.untyped_storage().fill_(POISON)
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    return tensor


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poisons what `torch.empty` and a workspace hand out, and what a workspace takes back."""
    empty, empty_like, hand_out, take_back = torch.empty, torch.empty_like, Workspace.empty, Workspace.release

    def release(workspace: Workspace, *made: Any) -> None:
        for each in made:
            tensor = each if isinstance(each, Tensor) else torch.from_numpy(each)
            if tensor.data_ptr() in workspace.used:
                poison(tensor)
        take_back(workspace, *made)

    monkeypatch.setattr(torch, "empty", lambda *shape, **options: poison(empty(*shape, **options)))
    monkeypatch.setattr(torch, "empty_like", lambda *like, **options: poison(empty_like(*like, **options)))
    monkeypatch.setattr(Workspace, "empty", lambda self, *made: poison(hand_out(self, *made)))
    monkeypatch.setattr(Workspace, "release", release)
