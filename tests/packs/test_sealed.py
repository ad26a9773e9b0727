"""Sealed files: what is in them comes back to the last bit, or not at all."""

import ast
import contextlib
import io
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from raysweep.sealed import DamagedError, Sealed, read_plain, seal, unseal, verify

ROOT = Path(__file__).parents[2]
TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def same(one: Any, other: Any) -> bool:
    """Compare two values to the last bit, their types too."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        is_alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        bits = [t.contiguous().view(-1).view(torch.uint8).tolist() for t in (one, other)]
        return is_alike and bits[0] == bits[1]
    if isinstance(one, float):
        return one.hex() == other.hex()
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=False)
        is_alike = len(one) == len(other)
        return is_alike and all(same(a, b) and same(v, w) for (a, v), (b, w) in pairs)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


SPECIAL: dict[str, Any] = {
    "none": None,
    "numbers": [0, -1, 2**70, 0.1 + 0.2, 5e-324, -0.0, math.inf, -math.inf, math.nan, True, False],
    "tuples": ((), (1, (2, [3, ()])), [(4,)]),
    "keys": {1: "int", "1": "text", None: 0, (1, 2): [], False: {}, 2.5: ()},
    "like ours": {"$tensor": "0", "$tuple": [1], "$items": [], "content": torch.zeros(1)},
    "texts": ["", "\0", 'a"blake2b":"' + "0" * 64 + '"', "ü€𝄞", "\ud800"],
    "empty": [{}, [], torch.zeros(0, 4), torch.zeros(())],
    "shared": [torch.arange(6.0).view(2, 3).T, torch.arange(10)[3:5]],
    "special": torch.tensor([math.nan, math.inf, -0.0, 5e-324], dtype=torch.float64),
    "generator": torch.Generator().manual_seed(3).get_state(),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_a_value_comes_back_to_the_last_bit(name: str) -> None:
    value = {name: SPECIAL[name], "more": [SPECIAL[name]]}
    assert same(unseal(seal(value)), value)


def drawn(draw: random.Random, depth: int) -> Any:
    """Draw a nested value."""
    kind = draw.randrange(9 if depth else 6)
    if kind < 3:
        return draw.choice([None, True, draw.random(), draw.randrange(10**20), "x" * kind])
    if kind < 6:
        shape = [draw.randrange(4) for _ in range(draw.randrange(3))]
        return (torch.randn(shape) * 3).to(draw.choice(TYPES))
    items = [drawn(draw, depth - 1) for _ in range(draw.randrange(4))]
    if kind == 8:
        return {draw.choice([str(i), i, "$" + str(i)]): item for i, item in enumerate(items)}
    return items if kind == 6 else tuple(items)


def test_drawn_values_come_back_to_the_last_bit(tmp_path: Path) -> None:
    draw = random.Random(5)
    file = tmp_path / "file"
    for _ in range(300):
        value = drawn(draw, 4)
        file.write_bytes(seal(value))
        assert same(unseal(file.read_bytes()), value), value
        verify(io.BytesIO(file.read_bytes()))
        assert repr(read_plain(io.BytesIO(file.read_bytes()))) == repr(
            Sealed(file.read_bytes()).plain
        )


def test_what_has_no_plain_form_is_refused() -> None:
    for value in (object(), {1, 2}, [b"bytes"], {"a": (len,)}):
        with pytest.raises(TypeError, match="expected plain values and tensors"):
            seal(value)


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_goes_unnoticed(seed: int, tmp_path: Path) -> None:
    data = seal({"a": torch.randn(50, 40), "b": [1.5, None, "text"], "c": (torch.arange(9),)})
    draw, file = random.Random(seed), tmp_path / "file"
    for _ in range(400):
        damaged = bytearray(data)
        at = draw.choice([draw.randrange(len(data)), draw.randrange(600)])
        how = draw.randrange(4)
        if how == 0:
            damaged[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            n = min(draw.choice([16, 512, 4096]), len(data) - at)
            damaged[at : at + n] = bytes(n)
        elif how == 2:
            del damaged[at:]
        else:
            damaged[at:at] = draw.randbytes(draw.randrange(1, 9))
        if damaged == data:
            continue
        file.write_bytes(damaged)
        with pytest.raises(DamagedError, match="is damaged or incomplete"):
            unseal(bytes(damaged))
        with pytest.raises(DamagedError, match="is damaged or incomplete"):
            verify(io.BytesIO(file.read_bytes()))
        with contextlib.suppress(DamagedError):  # not verified: anything, but no other error
            read_plain(io.BytesIO(file.read_bytes()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        (2**62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
        (17).to_bytes(8, "little") + b'{"__metadata__":1',
    ],
    ids=["empty", "zeros", "endless", "list", "nothing", "nested", "cut"],
)
def test_other_files_are_refused_in_the_same_words(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    for read in (
        lambda: unseal(data),
        lambda: verify(io.BytesIO(file.read_bytes())),
        lambda: read_plain(io.BytesIO(file.read_bytes())),
    ):
        with pytest.raises(DamagedError, match="is damaged or incomplete"):
            read()


def test_plain_values_are_read_without_torch_and_without_the_tensors(tmp_path: Path) -> None:
    file = tmp_path / "file"
    data = seal({"ids": ["a"], "t": torch.ones(1000)})
    file.write_bytes(data)
    assert read_plain(io.BytesIO(file.read_bytes())) == {"ids": ["a"], "t": None}
    head = 8 + int.from_bytes(data[:8], "little")
    place = json.loads(data[8:head])["0/t"]["data_offsets"]
    file.write_bytes(data[: head + place[0]] + bytes(4000) + data[head + place[1] :])
    assert read_plain(io.BytesIO(file.read_bytes()))["ids"] == ["a"]
    with pytest.raises(DamagedError):
        verify(io.BytesIO(file.read_bytes()))


def test_no_code_of_ours_reads_pickles() -> None:
    for file in (ROOT / "raysweep").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {"pickle", "cloudpickle", "dill", "shelve", "marshal"} & set(names), file
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}
