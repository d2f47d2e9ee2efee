"""Vectors of numbers inside Numba functions: a `Lanes` value holds n neighbouring array elements.

They are built on LLVM's vector types, so the same kernel becomes AVX-512, AVX2 or NEON code. Each lane is computed by
itself: integers wrap, and floating point rounds once per operation and is never contracted, whatever the machine's
vector width.
"""

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model


class Lanes(types.Type):
    """The type of n elements of one dtype. Boolean elements are the result of a comparison."""

    def __init__(self, element: types.Type, n: int) -> None:
        self.element, self.n = element, n
        super().__init__(name=f"Lanes({element}, {n})")


def vector_of(element: Any, n: int) -> ir.VectorType:
    """Return LLVM's type of n elements."""
    if isinstance(element, types.Float):
        return ir.VectorType(ir.DoubleType() if element.bitwidth == 64 else ir.FloatType(), n)
    return ir.VectorType(ir.IntType(1 if element == types.boolean else element.bitwidth), n)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Lanes) -> None:
        super().__init__(dmm, fe_type, vector_of(fe_type.element, fe_type.n))


def address_of(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any) -> Any:
    """Return where a vector lies that begins with an element of a flat array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.PointerType(vector))


def splat(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """Put the scalar into every lane."""
    undefined, zero = ir.Constant(vector, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    first = builder.insert_element(undefined, scalar, zero)
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


UNIT = 16
"""The number of lanes is always a multiple of this."""


def width_of(lanes: int) -> tuple[int, ...]:
    """Return a number of lanes in a form that Numba compiles for: a tuple with one element for each UNIT lanes."""
    return (0,) * (lanes // UNIT)


@intrinsic
def load(typing, array, index, width):
    """Read elements of a flat array from `index` on. `width` gives their number; see `width_of`."""
    result = Lanes(array.dtype, UNIT * len(width))

    def generate(context, builder, signature, args):
        pointer = address_of(context, builder, array, args[0], args[1], context.get_value_type(result))
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return result(array, types.intp, width), generate


@intrinsic
def item(typing, array, index):
    """Read one integer of a flat array, without asking whether the index is negative."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return context.cast(builder, builder.load(builder.gep(data, [args[1]])), array.dtype, types.int64)

    return types.int64(array, types.intp), generate


@intrinsic
def store(typing, array, index, values):
    """Write the lanes to a flat array from `index` on. A comparison is stored as 0 or 1."""

    def generate(context, builder, signature, args):
        vector, value = vector_of(array.dtype, values.n), args[2]
        if values.element == types.boolean:
            value = builder.zext(value, vector)
        pointer = address_of(context, builder, array, args[0], args[1], vector)
        builder.store(value, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, values), generate


@intrinsic
def spread(typing, scalar, like):
    """Put the scalar into every lane, with the dtype and the number of lanes of `like`."""

    def generate(context, builder, signature, args):
        value = context.cast(builder, args[0], scalar, like.element)
        return splat(builder, value, context.get_value_type(like))

    return like(scalar, like), generate


def _converted(context, builder, value, source, result):
    target, vector = result.element, context.get_value_type(result)
    unsigned = source == types.boolean or not getattr(source, "signed", True)
    if source == target:
        return value
    if isinstance(target, types.Float):
        if isinstance(source, types.Float):
            return (builder.fpext if target.bitwidth > source.bitwidth else builder.fptrunc)(value, vector)
        return (builder.uitofp if unsigned else builder.sitofp)(value, vector)
    if source != types.boolean and source.bitwidth >= target.bitwidth:
        return builder.trunc(value, vector)
    return (builder.zext if unsigned else builder.sext)(value, vector)


@intrinsic
def convert(typing, values, dtype):
    """Convert the lanes to another dtype.

    Integers are sign-extended, zero-extended (unsigned ones and comparisons) or truncated.
    """
    result = Lanes(dtype.dtype, values.n)

    def generate(context, builder, signature, args):
        return _converted(context, builder, args[0], values.element, result)

    return result(values, dtype), generate


@intrinsic
def convert_like(typing, values, like):
    """Convert the lanes to the dtype of other lanes; see `convert`."""
    result = Lanes(like.element, values.n)

    def generate(context, builder, signature, args):
        return _converted(context, builder, args[0], values.element, result)

    return result(values, like), generate


@intrinsic
def nonzero(typing, values):
    """Compare integers with zero; true where they are not zero."""

    def generate(context, builder, signature, args):
        return builder.icmp_signed("!=", args[0], ir.Constant(context.get_value_type(values), None))

    return Lanes(types.boolean, values.n)(values), generate


@intrinsic
def where(typing, condition, values):
    """Keep the lanes where the comparison holds, and make the others zero."""

    def generate(context, builder, signature, args):
        return builder.select(args[0], args[1], ir.Constant(context.get_value_type(values), None))

    return values(condition, values), generate


@intrinsic
def shift_right(typing, values, bits):
    """Shift integers to the right, arithmetically."""

    def generate(context, builder, signature, args):
        amount = context.cast(builder, args[1], bits, values.element)
        return builder.ashr(args[0], splat(builder, amount, context.get_value_type(values)))

    return values(values, bits), generate


@intrinsic
def any_of(typing, condition):
    """Whether the comparison holds in some lane."""

    def generate(context, builder, signature, args):
        bits = builder.bitcast(args[0], ir.IntType(condition.n))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(condition), generate


@intrinsic
def sum_of(typing, values):
    """Add up the lanes of int32, in int64."""

    def generate(context, builder, signature, args):
        wide = builder.sext(args[0], ir.VectorType(ir.IntType(64), values.n))
        kind = ir.FunctionType(ir.IntType(64), [wide.type])
        add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.add.v{values.n}i64")
        return builder.call(add, [wide])

    return types.int64(values), generate


@intrinsic
def append_above(typing, out, end, first, values, start, level):
    """Append to `out`, from `end` on, first + lane for each of UNIT bytes, read from `start` on, that exceeds `level`.

    Return how many elements were appended. UNIT elements are always written; those beyond the returned number mean
    nothing.
    """
    lanes = UNIT

    def generate(context, builder, signature, args):
        vector, source = vector_of(out.dtype, lanes), vector_of(values.dtype, lanes)
        loaded = builder.load(address_of(context, builder, values, args[3], args[4], source), align=1)
        least = splat(builder, builder.trunc(args[5], source.element), source)
        mask = builder.icmp_unsigned(">", loaded, least)
        base = splat(builder, builder.trunc(args[2], vector.element), vector)
        indices = builder.add(base, ir.Constant(vector, list(range(lanes))))
        kind = ir.FunctionType(vector, [vector, mask.type, vector])
        name = f"llvm.experimental.vector.compress.v{lanes}i{vector.element.width}"
        compress = cgutils.get_or_insert_function(builder.module, kind, name)
        packed = builder.call(compress, [indices, mask, ir.Constant(vector, ir.Undefined)])
        builder.store(packed, address_of(context, builder, out, args[0], args[1], vector), align=4)
        return builder.zext(builder.ctpop(builder.bitcast(mask, ir.IntType(lanes))), ir.IntType(64))

    return types.int64(out, types.int64, types.int64, values, types.int64, types.int64), generate


def _binary(integer: str, floating: str) -> Any:
    @intrinsic
    def operation(typing, a, b):
        def generate(context, builder, signature, args):
            return getattr(builder, floating if isinstance(a.element, types.Float) else integer)(*args)

        return a(a, b), generate

    return operation


def _comparison(symbol: str) -> Any:
    @intrinsic
    def operation(typing, a, b):
        def generate(context, builder, signature, args):
            compare = builder.icmp_signed if getattr(a.element, "signed", False) else builder.icmp_unsigned
            compare = builder.fcmp_ordered if isinstance(a.element, types.Float) else compare
            return compare(symbol, *args)

        return Lanes(types.boolean, a.n)(a, b), generate

    return operation


_add, _subtract, _multiply = _binary("add", "fadd"), _binary("sub", "fsub"), _binary("mul", "fmul")
_at_least, _below, _above = _comparison(">="), _comparison("<"), _comparison(">")


def _both_lanes(a: types.Type, b: types.Type) -> bool:
    return isinstance(a, Lanes) and isinstance(b, Lanes)


@overload(operator.add)
def _overload_add(a, b):
    return (lambda a, b: _add(a, b)) if _both_lanes(a, b) else None


@overload(operator.sub)
def _overload_sub(a, b):
    return (lambda a, b: _subtract(a, b)) if _both_lanes(a, b) else None


@overload(operator.mul)
def _overload_mul(a, b):
    return (lambda a, b: _multiply(a, b)) if _both_lanes(a, b) else None


@overload(operator.ge)
def _overload_ge(a, b):
    return (lambda a, b: _at_least(a, b)) if _both_lanes(a, b) else None


@overload(operator.lt)
def _overload_lt(a, b):
    return (lambda a, b: _below(a, b)) if _both_lanes(a, b) else None


@overload(operator.gt)
def _overload_gt(a, b):
    return (lambda a, b: _above(a, b)) if _both_lanes(a, b) else None
