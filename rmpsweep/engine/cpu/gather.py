"""Vector operations for events in integers: listing the events of a strip, and adding up the weight rows of a list.

Weights are added in pairs. Two weights a and b lie in one number x = 2^w b + a + 2^(w-1), where w is their width in
bits. Of n such numbers, the sum modulo 2^(2w) and the sum of the b give the sum of the a. Of two operations for each
vector of weights that is read, one adds x and one adds b, and neither has to widen anything.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from rmpsweep.engine.cpu.lanes import UNIT, Lanes, address_of, convert, load, splat, spread, vector_of

MOST_BYTES = 256
"""The number of pairs of int8 weights whose sums always fit into int16."""
I32, I64 = ir.IntType(32), ir.IntType(64)


def has_dot_product(context: Any) -> bool:
    """Whether code is compiled for a processor that multiplies and adds int16 pairs in one instruction (AVX-512)."""
    _, _, features = context.codegen().magic_tuple()
    return "+avx512vnni" in features


def _joined(builder: Any, parts: list[Any]) -> Any:
    """Join vectors of the same type; their number is a power of two."""
    while len(parts) > 1:
        lanes = ir.VectorType(I32, 2 * parts[0].type.count)
        order = ir.Constant(lanes, list(range(lanes.count)))
        parts = [builder.shuffle_vector(a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _part(builder: Any, vector: Any, start: int, count: int) -> Any:
    """Return `count` lanes of a vector from `start` on."""
    order = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), order)


def _add_upper(context: Any, builder: Any, total: Any, x: Any, bits: int) -> Any:
    """Return total plus the upper number of each pair."""
    if bits == 16 and total.type.count % UNIT == 0 and has_dot_product(context):
        unit = ir.VectorType(I32, UNIT)
        name, kind = "llvm.x86.avx512.vpdpwssd.512", ir.FunctionType(unit, [unit] * 3)
        product, upper = cgutils.get_or_insert_function(builder.module, kind, name), ir.Constant(unit, [1 << 16] * UNIT)
        starts = range(0, total.type.count, UNIT)
        parts = [(_part(builder, total, i, UNIT), _part(builder, x, i, UNIT)) for i in starts]
        return _joined(builder, [builder.call(product, [*part, upper]) for part in parts])
    return builder.add(total, builder.ashr(x, ir.Constant(x.type, [bits] * x.type.count)))


@intrinsic
def _sum_pairs(typing, start, stop, indices, weights, at, width):
    """Return the sum of the weight rows that are listed from start to stop, in numbers twice as wide as a weight."""
    bits, lanes = weights.dtype.bitwidth, UNIT * len(width)
    result = Lanes(types.Integer.from_bitwidth(2 * bits), lanes)

    def generate(context, builder, signature, args):
        start, stop, listed, rows, at, _ = args
        pairs = ir.VectorType(ir.IntType(2 * bits), lanes // 2)
        zero = ir.Constant(pairs, None)
        one = builder.asm(ir.FunctionType(I64, [I64]), "", "=r,0", [I64(1)], False)  # unknown to the optimiser
        entry = builder.basic_block
        blocks = [builder.append_basic_block(name) for name in ("even_row", "odd_row", "rows_end")]
        builder.cbranch(builder.icmp_signed("<", start, stop), blocks[0], blocks[2])
        builder.position_at_end(blocks[0])
        e = builder.phi(I64)
        state = [builder.phi(pairs) for _ in range(3)]  # the sum of all pairs, and two of the upper numbers, in turn
        phis, reached = [e, *state], [(entry, [zero] * 3)]
        for block, following in ((blocks[0], blocks[1]), (blocks[1], blocks[0])):
            builder.position_at_end(block)
            index = builder.load(builder.gep(context.make_array(indices)(context, builder, listed).data, [e]))
            row = builder.add(at, builder.mul(builder.zext(index, I64), I64(lanes)))
            x = builder.load(address_of(context, builder, weights, rows, row, pairs), align=bits // 8)
            e = builder.add(e, one)
            state = [builder.add(state[0], x), state[2], _add_upper(context, builder, state[1], x, bits)]
            builder.cbranch(builder.icmp_signed("<", e, stop), following, blocks[2])
            reached.append((block, state))
        for phi, first, value in zip(phis, (start, zero, zero, zero), (e, *state), strict=True):
            phi.add_incoming(first, entry)
            phi.add_incoming(value, blocks[1])
        builder.position_at_end(blocks[2])
        sums = [builder.phi(pairs) for _ in range(3)]
        for block, values in reached:
            for phi, value in zip(sums, values, strict=True):
                phi.add_incoming(value, block)
        high = builder.add(sums[1], sums[2])
        number = builder.trunc(builder.sub(stop, start), pairs.element)
        offset = splat(builder, builder.mul(number, pairs.element(1 << bits - 1)), pairs)
        shifted = builder.shl(high, ir.Constant(pairs, [bits] * pairs.count))
        return _joined(builder, [builder.sub(builder.sub(sums[0], shifted), offset), high])

    return result(types.int64, types.int64, indices, weights, types.int64, width), generate


@njit
def _sum_bytes(start, stop, indices, weights, at, width):
    """Return in int32 what `_sum_pairs` returns in int16 for parts of the list that are short enough."""
    total = convert(_sum_pairs(start, min(stop, start + MOST_BYTES), indices, weights, at, width), types.int32)
    for e in range(start + MOST_BYTES, stop, MOST_BYTES):
        more = _sum_pairs(e, min(stop, e + MOST_BYTES), indices, weights, at, width)
        total = total + convert(more, types.int32)
    return total


@njit
def _sum_wide(start, stop, indices, weights, at, width):
    """Return the sum of int32 weight rows in int64."""
    total = spread(0, convert(load(weights, 0, width), types.int64))
    for e in range(start, stop):
        row = load(weights, at + np.int64(indices[e]) * (UNIT * len(width)), width)
        total = total + convert(row, types.int64)
    return total


def sum_rows(start, stop, indices, weights, at, width):
    """Return the sum of the weight rows that are listed from start to stop; index i is that of the lanes from
    at + i * lanes on.

    It is exact in int32, and for weights in int32 it is in int64.
    """


@overload(sum_rows, inline="always")
def _overload_sum_rows(start, stop, indices, weights, at, width):
    def pairs(start, stop, indices, weights, at, width):
        return _sum_pairs(start, stop, indices, weights, at, width)

    def pairs_of_bytes(start, stop, indices, weights, at, width):
        return _sum_bytes(start, stop, indices, weights, at, width)

    def wide(start, stop, indices, weights, at, width):
        return _sum_wide(start, stop, indices, weights, at, width)

    return {types.int8: pairs_of_bytes, types.int16: pairs, types.int32: wide}[weights.dtype]


BLOCK = 64
"""How many bytes are turned into events at once."""


def _read(context: Any, builder: Any, array_type: Any, array: Any, places: list[Any]) -> Any:
    """Return a block of bytes, of which each place gives an equal part."""
    vector = vector_of(array_type.dtype, BLOCK // len(places))
    return _joined(
        builder, [builder.load(address_of(context, builder, array_type, array, i, vector), align=1) for i in places]
    )


def _has_compress(context: Any) -> bool:
    """Whether code is compiled for a processor that moves chosen bytes of a vector together (AVX-512)."""
    _, _, features = context.codegen().magic_tuple()
    return "+avx512vbmi2" in features


def _append_compressed(builder: Any, bits: Any, lanes: Any, write: Any) -> None:
    """Write the lanes whose bits are set, UNIT at a time; mostly the first UNIT are all."""
    mask = builder.bitcast(bits, ir.VectorType(ir.IntType(1), BLOCK))
    kind = ir.FunctionType(lanes.type, [lanes.type, mask.type, lanes.type])
    compress = cgutils.get_or_insert_function(builder.module, kind, f"llvm.experimental.vector.compress.v{BLOCK}i8")
    packed = builder.call(compress, [lanes, mask, ir.Constant(lanes.type, ir.Undefined)])
    write(_part(builder, packed, 0, UNIT), 0)
    many = builder.icmp_unsigned(">", builder.ctpop(bits), I64(UNIT))
    with builder.if_then(many, likely=False):
        for start in range(UNIT, BLOCK, UNIT):
            write(_part(builder, packed, start, UNIT), start)


def _append_one_by_one(builder: Any, bits: Any, usual_bits: Any, write: Any) -> None:
    """Write the number of each bit that is set, plus BLOCK * 2 if the usual bit is set."""
    entry, loop, end = builder.basic_block, builder.append_basic_block("bits"), builder.append_basic_block("bits_end")
    builder.cbranch(builder.icmp_unsigned("!=", bits, I64(0)), loop, end)
    builder.position_at_end(loop)
    left, count = builder.phi(I64), builder.phi(I64)
    lane = builder.cttz(left, ir.Constant(ir.IntType(1), 1))
    usual_bit = builder.and_(builder.lshr(usual_bits, lane), I64(1))
    byte = builder.trunc(builder.or_(lane, builder.shl(usual_bit, I64(7))), ir.IntType(8))
    write(builder.insert_element(ir.Constant(ir.VectorType(byte.type, 1), ir.Undefined), byte, I32(0)), count)
    rest, following = builder.and_(left, builder.sub(left, I64(1))), builder.add(count, I64(1))
    builder.cbranch(builder.icmp_unsigned("!=", rest, I64(0)), loop, end)
    left.add_incoming(bits, entry)
    left.add_incoming(rest, builder.basic_block)
    count.add_incoming(I64(0), entry)
    count.add_incoming(following, builder.basic_block)
    builder.position_at_end(end)


@intrinsic
def append_events(typing, out, end, first, values, places, among, level, usual, shift, removed):
    """Append to `out`, from `end` on, first + i for each byte i that exceeds `level` of a block; see `_read`.

    Only the bytes whose bits are set in `among` count. With `usual`, bytes are 0 or 1, and those count that differ from
    the usual byte, which lies `shift` further on; where that is 1, the number is larger by `removed`. Return how many
    elements were appended. Up to BLOCK elements are written; those beyond the returned number mean nothing.
    """

    def generate(context, builder, signature, args):
        out_array, end, first, bytes_, places_, among, level, usual_bytes, shift, removed = args
        at, number = cgutils.unpack_tuple(builder, places_), context.get_value_type(out.dtype)
        found = _read(context, builder, values, bytes_, at)
        lanes, usual_bits = ir.Constant(found.type, list(range(BLOCK))), I64(0)
        if usual == types.none:
            least = splat(builder, builder.trunc(level, found.type.element), found.type)
            counts = builder.icmp_unsigned(">", found, least)
        else:
            usually = _read(context, builder, usual, usual_bytes, [builder.add(i, shift) for i in at])
            counts = builder.icmp_unsigned("!=", found, usually)
            usual_bits = builder.bitcast(builder.icmp_unsigned("!=", usually, ir.Constant(found.type, None)), I64)
            lanes = builder.or_(lanes, builder.shl(usually, ir.Constant(found.type, [7] * BLOCK)))
        bits = builder.and_(builder.bitcast(counts, I64), among)

        def write(bytes_, start):
            vector = ir.VectorType(number, bytes_.type.count)
            numbers = builder.add(builder.zext(bytes_, vector), splat(builder, builder.trunc(first, number), vector))
            if usual != types.none:
                larger = builder.sub(builder.trunc(removed, number), number(2 * BLOCK))
                before = builder.icmp_signed("<", bytes_, ir.Constant(bytes_.type, None))
                numbers = builder.select(before, builder.add(numbers, splat(builder, larger, vector)), numbers)
            place = builder.add(end, start if isinstance(start, ir.Instruction) else I64(start))
            address = address_of(context, builder, out, out_array, place, vector)
            builder.store(numbers, address, align=out.dtype.bitwidth // 8)

        if _has_compress(context):
            _append_compressed(builder, bits, lanes, write)
        else:
            _append_one_by_one(builder, bits, usual_bits, write)
        return builder.ctpop(bits)

    whole = types.int64
    return whole(out, whole, whole, values, places, whole, whole, usual, whole, whole), generate
