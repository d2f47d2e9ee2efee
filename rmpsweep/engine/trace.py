"""Records a network's forward as a graph of the tensor operations that it performs on an example.

This is torch.fx with proxies that know the example's values. When forward asks for shapes, sizes or dtypes, it gets
those of the example, so it may branch on them, loop over them and compute with them. When forward asks for the values
themselves, the trace is refused, because another image could give another answer.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from functools import cached_property
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from rmpsweep.engine.operators import kind_of

_METADATA = {
    "size",
    "dim",
    "ndimension",
    "numel",
    "nelement",
    "stride",
    "is_contiguous",
    "is_floating_point",
    "is_complex",
    "element_size",
    "get_device",
    "type",
}
"""Functions and methods whose result does not depend on the values of the tensor."""


class TraceError(Exception):
    """Forward does something that the trace of one example cannot represent."""


@torch.no_grad()
def trace(ann: nn.Module, example: Tensor) -> fx.Graph:
    """Return the operations of a copy of the network in eval mode, as a graph. The graph does not keep the copy.

    Args:
        example: [N, C, H, W].
    Returns:
        The graph. If the value of a node is a tensor, `node.meta["shape"]` is its shape. Numbers, such as sizes, are
        arguments rather than nodes. Modules and functions that are unknown to `operators` but return their input
        unchanged (stochastic depth, in eval mode) are left out.
    Raises:
        TraceError: forward takes more than one tensor, or depends on values. Errors that forward itself raises are
        passed on.
    """
    graph = _Tracer(example.clone()).trace(copy.deepcopy(ann).eval())
    graph.owning_module = None
    return graph


class _Proxy(fx.Proxy):
    """Stands for what a node computes. `value` is its value on the example: a tensor or a tuple of tensors."""

    value: Any

    def __getattr__(self, name: str) -> Any:
        if inspect.isroutine(getattr(self.value, name)):
            return super().__getattr__(name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))  # type: ignore[index]

    def _no_number(self) -> Any:
        raise TraceError(_depends_on_values(self.node))

    __bool__ = __int__ = __float__ = __index__ = _no_number


class _Tracer(fx.Tracer):
    """Traces one forward.

    `running` is True while an operation runs on the example's values; calls inside it are not recorded.
    """

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.example = example
        self.running = False

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        return dict(self.root.named_modules())

    def proxy(self, node: fx.Node) -> _Proxy:
        return _Proxy(node, self)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        if kind == "placeholder" and args:
            return args[0]  # the default value of a further argument
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        assert isinstance(proxy, _Proxy)
        node = proxy.node
        source = next((a for a in args if isinstance(a, _Proxy)), None)
        version = source.value._version if source is not None and isinstance(source.value, Tensor) else None
        self.running = True
        try:
            value = self._run(node, *fx.node.map_aggregate((args, kwargs), _value_of))
        finally:
            self.running = False
        is_input = isinstance(value, Tensor) and source is not None and value is source.value
        if is_input and value._version == version and kind_of(node, self.modules) is None:
            self.graph.erase_node(node)
            return source
        if not _holds_tensors(value):
            if target is not getattr and getattr(target, "__name__", target) not in _METADATA:
                raise TraceError(_depends_on_values(node))
            self.graph.erase_node(node)
            return value
        if isinstance(value, Tensor):
            node.meta["shape"] = tuple(value.shape)
        proxy.value = value
        return proxy

    def _run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Compute a node from the example's values."""
        match node.op:
            case "placeholder":
                if len(self.graph.nodes) > 1:
                    raise TraceError(f"node {node.name!r}: the network takes more than one input")
                return self.example
            case "get_attr":
                return attrgetter(str(node.target))(self.root)
            case "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            case "call_function":
                assert callable(node.target)
                return node.target(*args, **kwargs)
        return self.modules[str(node.target)](*args, **kwargs)


def _value_of(argument: Any) -> Any:
    return argument.value if isinstance(argument, _Proxy) else argument


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, tuple | list) and any(isinstance(part, Tensor) for part in value)
    )


def _depends_on_values(node: fx.Node) -> str:
    return (
        f"node {node.name!r}: forward turns values of a tensor into a number or a decision, which another image may "
        "decide otherwise; only decisions on shapes can be converted"
    )
