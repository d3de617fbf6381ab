import dataclasses
import json
import re

import numpy as np
import pytest

from hashzoo.codes import MAX_BITS, MIN_BITS, Codes, check_bits, pack, unpack
from hashzoo.errors import CodesError


def random_codes(rows=5, bits=12, model="demo"):
    return Codes.from_bits(np.random.default_rng(bits).random((rows, bits)) < 0.5, model)


def test_every_length_packs_as_numpy_does():
    random = np.random.default_rng(0).random((3, MAX_BITS)) < 0.5
    for bits in range(MIN_BITS, MAX_BITS + 1):
        rows = random[:, :bits]
        packed = pack(rows)
        width = -(-bits // 8)
        text = "".join(str(int(bit)) for bit in rows[0]).ljust(8 * width, "0")
        assert packed[0].tobytes() == int(text, 2).to_bytes(width, "big"), bits  # the meaning, apart from numpy
        assert packed.dtype == np.uint8, bits
        np.testing.assert_array_equal(packed, np.packbits(rows, axis=1))
        np.testing.assert_array_equal(unpack(packed, bits), rows)
        codes = Codes.from_bits(rows)
        assert (codes.bits, codes.packed.shape) == (bits, (3, width))
        np.testing.assert_array_equal(codes.to_bits(), rows)


@pytest.mark.parametrize("bits", [4, 12, 47, 1023])
def test_every_pad_bit_must_be_zero(bits):
    width = -(-bits // 8)
    for pad in range(8 * width - bits):
        packed = np.zeros((3, width), np.uint8)
        packed[1, -1] = 1 << pad
        with pytest.raises(CodesError, match=rf"The {8 * width - bits} pad bits after bit {bits} must be 0; pack with"):
            Codes(packed, bits)
    packed = np.full((3, width), 255, np.uint8)
    packed[:, -1] = 256 - (1 << (8 * width - bits))  # all code bits set, no pad bit
    assert Codes(packed, bits).to_bits().all()


@pytest.mark.parametrize("bits", [0, 3, -4, 1025, True, 4.5, 12.0, "12", None, np.float32(12)])
def test_lengths_that_are_none(bits):
    message = r"A code length is a whole number from 4 to 1024, not "
    with pytest.raises(CodesError, match=message):
        check_bits(bits)
    with pytest.raises(CodesError, match=message):
        Codes(np.zeros((1, 1), np.uint8), bits)


def test_limits_of_length():
    assert (check_bits(4), check_bits(1024)) == (4, 1024)
    codes = Codes(np.zeros((1, 2), np.uint8), np.int64(12))
    assert type(codes.bits) is int
    assert json.dumps(codes.bits) == "12"


@pytest.mark.parametrize(
    ("packed", "found"),
    [
        (np.zeros((2, 2), np.int8), r"int8 \(2, 2\)"),
        (np.zeros((2, 12), bool), r"bool \(2, 12\)"),
        (np.zeros(2, np.uint8), r"uint8 \(2,\)"),
        (np.zeros((1, 2, 2), np.uint8), r"uint8 \(1, 2, 2\)"),
        ([[0, 0]], "list"),
        (b"ab", "bytes"),
        (None, "NoneType"),
    ],
)
def test_packed_must_be_a_uint8_matrix(packed, found):
    with pytest.raises(CodesError, match=rf"Packed codes are a uint8 array of shape \(N, 2\), not {found}\.$"):
        Codes(packed, 12)


@pytest.mark.parametrize("width", [0, 1, 3])
def test_width_must_fit_the_length(width):
    with pytest.raises(CodesError, match=f"Codes of 12 bits take 2 bytes each, but the array has {width}"):
        Codes(np.zeros((2, width), np.uint8), 12)


def test_from_bits_takes_only_zero_and_one():
    signs = np.array([[1, -1, 1, -1]])
    with pytest.raises(CodesError, match="Bits are 0 or 1"):
        Codes.from_bits(signs)
    for bad in (signs.astype(np.float32), np.full((1, 4), np.nan), np.full((1, 4), 2), np.full((1, 4), 0.5)):
        with pytest.raises(CodesError, match="Bits are 0 or 1"):
            Codes.from_bits(bad)
    for kind in (int, float, np.uint8, bool):
        assert Codes.from_bits((signs > 0).astype(kind)).packed.tolist() == [[0b1010_0000]]
    for shape in ((4,), (1, 2, 4)):
        with pytest.raises(CodesError, match=r"Bits are an array of shape \(N, K\), not"):
            Codes.from_bits(np.zeros(shape, bool))
    for bits in (3, 1025):
        with pytest.raises(CodesError, match="from 4 to 1024"):
            Codes.from_bits(np.zeros((1, bits), bool))


def test_slices():
    codes = random_codes(6)
    rows = codes.to_bits()
    for key in (slice(1, 4), slice(None, None, -2), slice(0, 0), [5, 0, 0], np.array([], int), rows[:, 0]):
        part = codes[key]
        assert (part.bits, part.model) == (12, "demo")
        np.testing.assert_array_equal(part.to_bits(), rows[key])
    for row in (0, 5, -1, np.int64(2)):
        np.testing.assert_array_equal(codes[row].to_bits(), rows[[row]])
    with pytest.raises(IndexError):
        codes[6]
    assert [len(one) for one in codes] == [1] * 6
    assert Codes.concatenate(list(codes)) == codes
    assert len(codes[:0]) == 0
    assert list(codes[:0]) == []


def test_equality_is_of_the_bits_and_of_all_that_is_known_of_them():
    codes = random_codes()
    assert codes == random_codes()
    assert codes != random_codes(model="other")
    assert codes != random_codes(rows=4)
    assert codes != "codes"
    with pytest.raises(dataclasses.FrozenInstanceError):
        codes.model = "other"
    zeros = np.zeros((2, 2), np.uint8)
    assert Codes(zeros, 12) != Codes(zeros, 13)
    flipped = codes.packed.copy()
    flipped[-1, 0] ^= 1
    assert codes != Codes(flipped, 12, "demo")
    with pytest.raises(TypeError, match="unhashable"):
        hash(codes)
    assert repr(codes) == "Codes(5 x 12 bits, model='demo')"


@pytest.mark.parametrize(("name", "one", "other"), [("weights", "12ab", "cd34"), ("precision", "float32", "bfloat16")])
def test_what_differs_is_printed(name, one, other):
    plain = random_codes()
    first, second = (dataclasses.replace(plain, **{name: value}) for value in (one, other))
    assert first == dataclasses.replace(plain, **{name: one})
    assert first != second
    assert first != plain
    assert repr(first) == f"Codes(5 x 12 bits, model='demo', {name}='{one}')"
    message = (
        f"Codes(5 x 12 bits, model='demo', {name}='{other}') cannot be joined to {first!r}: length, model, weights"
    )
    with pytest.raises(CodesError, match=re.escape(message)):
        Codes.concatenate([first, second])
    assert Codes.concatenate([first, first])[3:7] == Codes.concatenate([first[3:], first[:2]])


def test_concatenate():
    one, two = random_codes(2), random_codes(3)
    joined = Codes.concatenate([one, two[:0], two])
    assert (joined.bits, joined.model) == (12, "demo")
    np.testing.assert_array_equal(joined.packed, np.vstack([one.packed, two.packed]))
    with pytest.raises(CodesError, match="There are no codes to join"):
        Codes.concatenate([])
    for other in (random_codes(3, model="other"), random_codes(3, bits=13), random_codes(3, model=None)):
        with pytest.raises(
            CodesError, match=r"cannot be joined to .*length, model, weights and precision must be the same"
        ):
            Codes.concatenate([one, other])
