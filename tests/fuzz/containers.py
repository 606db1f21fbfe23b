"""HDF5, Arrow, Parquet and pickle files written anew with one part of another kind: what flipped bits would hardly ever hit.

A file made so is whole by every checksum and count, and says something else than it should: another dtype, another shape, a
link, a missing value, a column that is not there.
"""

import io
import random
from typing import Any

import numpy as np

KINDS = ("hdf5", "arrow", "parquet", "bin")


def change(content: bytes, name: str, rng: random.Random) -> tuple[bytes, str]:
    """The file of that name with one part changed, and what was done."""
    if name.endswith("hdf5"):
        return _hdf5(content, rng)
    return _pickle(content, rng) if name.endswith("bin") else _table(content, name, rng)


# ---- HDF5 ---------------------------------------------------------------------------------------------------------------


def _hdf5(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    import h5py

    held = io.BytesIO(content)
    with h5py.File(held, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        way = rng.choice(names)
        old = file[way]
        if rng.random() < 0.15:
            key, new = rng.choice(("total_steps", "seed", "id", "unfinished")), _odd_attribute(rng)
            old.attrs[key] = new
            return _read(file, held), f"attribute {key} of {way} = {str(new)[:40]}"
        rest = old[()] if isinstance(old, h5py.Dataset) else None
        del file[way]
        told = _instead(file, way, rest, rng, rng.choice(names))
        return _read(file, held), f"{way} {told}"


def _read(file: Any, held: io.BytesIO) -> bytes:
    file.flush()
    file.close()
    return held.getvalue()


def _odd_attribute(rng: random.Random) -> Any:
    return rng.choice(
        (-1, 0, 10**9, 2**62, 1.5, float("nan"), "seven", np.array([1, 2, 3]), np.bytes_(b"\xff"), True, np.array([]))
    )


def _instead(file: Any, way: str, old: Any, rng: random.Random, other: str) -> str:
    """Puts something else in a place, and says what."""
    import h5py

    which = rng.randrange(18)
    if which == 0:
        return "is gone"
    if which == 1:
        file.create_group(way)
        return "is an empty group"
    if which == 2:
        file[way] = h5py.SoftLink(f"/{rng.choice((other, way, 'nowhere'))}")
        return "is a soft link"
    if which == 3:
        file[way] = h5py.ExternalLink("main_data.hdf5", f"/{other}")
        return "is an external link"
    if which == 4:
        # Nothing of it is stored: a few bytes that say they are very many.
        shape = rng.choice(((10**6,) * 2, (10**12,), (2**31, 2), (3, 10**9), (10**9, 1)))
        file.create_dataset(way, shape, rng.choice(("f4", "u1")), chunks=tuple(min(s, 100) for s in shape))
        return f"is of shape {shape}, and empty"
    if which == 5:
        file.create_dataset(way, data=b"x" * 3)
        return "is a text"
    if which == 6:
        file.create_dataset(way, data=["a", "bb", "\u20ac"], dtype=h5py.string_dtype())
        return "is a list of texts"
    if which == 7:
        file.create_dataset(way, data=h5py.Empty("f4"))
        return "is empty space"
    if which == 8:
        layout = h5py.VirtualLayout((4, 3), "f4")
        layout[:] = h5py.VirtualSource(file.filename if isinstance(file.filename, str) else "x", "nowhere", (4, 3))
        file.create_virtual_dataset(way, layout)
        return "is put together of others"
    if which == 9:
        file.create_dataset(way, data=np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]))
        return "is a compound"
    if which == 10:
        kind = h5py.vlen_dtype(np.dtype(rng.choice(("u1", "f4"))))
        made = file.create_dataset(way, (2,), dtype=kind)
        made[0], made[1] = [1, 2, 3], [4]
        return "is a list of lists"
    if which == 11:
        file.create_dataset(way, data=np.array(rng.choice((1.5, 7, True))))
        return "is a single number"
    array = old if isinstance(old, np.ndarray) and old.dtype.kind in "biuf" else np.arange(12.0)
    made = _array(array, rng)
    more = {"compression": "gzip", "shuffle": True} if made.ndim and made.size and rng.random() < 0.3 else {}
    file.create_dataset(way, data=made, **more)
    return f"is {made.dtype} of shape {made.shape}"


def _array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Another array made of one."""
    which = rng.randrange(7)
    if which == 0:
        return array[: max(0, len(array) - 1)] if array.ndim else array[None]
    if which == 1:
        return np.concatenate([array, array]) if array.ndim else array
    if which == 2:
        return array[..., None].repeat(rng.choice((1, 2)), -1)
    if which == 3:
        return array.astype(rng.choice(("f2", ">f8", "i1", "u8", "c8", "?", "f16")))
    if which == 4:
        made = array.astype(np.float64)
        made[...] = rng.choice((np.nan, np.inf, 1e308, -1e30))
        return made
    if which == 5:
        return array.reshape(-1)
    return array[:0]


# ---- Arrow and Parquet --------------------------------------------------------------------------------------------------


def _table(content: bytes, name: str, rng: random.Random) -> tuple[bytes, str]:
    import pyarrow as pa
    from pyarrow import parquet

    ipc = name.endswith("arrow")
    stream = ipc and not content.startswith(b"ARROW1")
    if ipc:
        open_ = pa.ipc.open_stream if stream else pa.ipc.open_file
        table = open_(pa.BufferReader(content)).read_all()
    else:
        table = parquet.read_table(pa.BufferReader(content))
    table, told = _columns(table, rng)
    sink = pa.BufferOutputStream()
    if not ipc:
        size = rng.choice((None, 1, 3))
        parquet.write_table(table, sink, row_group_size=size, compression=rng.choice(("snappy", "zstd", "none", "gzip")))
    else:
        options = pa.ipc.IpcWriteOptions(compression=rng.choice((None, None, "zstd", "lz4")))
        new = pa.ipc.new_stream if stream else pa.ipc.new_file
        with new(sink, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=rng.choice((None, None, 1, 3)))
    return sink.getvalue().to_pybytes(), told


def _columns(table: Any, rng: random.Random) -> tuple[Any, str]:
    import pyarrow as pa

    k = rng.randrange(table.num_columns)
    name, which = table.column_names[k], rng.randrange(9)
    if which == 0:
        return table.remove_column(k), f"column {name} is gone"
    if which == 1:
        return table.rename_columns([f"{n}x" if i == k else n for i, n in enumerate(table.column_names)]), f"{name} renamed"
    if which == 2:
        return table.append_column(name, table.column(k)), f"{name} twice"
    if which == 3:
        return table.slice(0, max(0, len(table) - 1)), "a row less"
    if which == 4:
        return pa.concat_tables([table, table]), "every row twice"
    if which == 5:
        return table.slice(0, 0), "no rows"
    if which == 6:
        order = rng.sample(range(len(table)), len(table))
        return table.take(order), "rows in another order"
    made, told = _column(table.column(k).combine_chunks(), len(table), rng)
    return table.set_column(k, name, made), f"{name} {told}"


def _column(old: Any, n: int, rng: random.Random) -> tuple[Any, str]:
    """Another column of ``n`` rows, and what it is."""
    import pyarrow as pa

    which = rng.randrange(12)
    if which == 0:
        return pa.nulls(n, old.type), "has no values"
    if which == 1:
        first = old.slice(0, n - 1) if n else old
        kept = first if isinstance(first, pa.Array) else pa.concat_arrays(first.chunks)
        return pa.concat_arrays([kept, pa.nulls(n - len(kept), old.type)]), "lacks its last value"
    if which == 2:
        return pa.nulls(n), "is of nothing"
    made = {
        3: lambda: pa.array([rng.choice((-1, 0, 5, 2**40)) for _ in range(n)], pa.int64()),
        4: lambda: pa.array([rng.choice((float("nan"), 1e308, -0.5)) for _ in range(n)], pa.float64()),
        5: lambda: pa.array([rng.choice(("", "{}", "[1", "nan", "é" * 50)) for _ in range(n)]),
        6: lambda: pa.array([[1.0] * rng.randrange(4) for _ in range(n)], pa.list_(pa.float32())),
        7: lambda: pa.array([[1.0, 2.0]] * n, pa.list_(pa.float32(), 2)),
        8: lambda: pa.array([rng.randbytes(4) for _ in range(n)], pa.binary()),
        9: lambda: pa.array(["a"] * n).dictionary_encode(),
        10: lambda: pa.array([{"a": 1, "b": None}] * n),
        11: lambda: pa.array([True, False] * n, pa.bool_())[:n],
    }[which]()
    return made, f"is {made.type}"


# ---- pickles ------------------------------------------------------------------------------------------------------------


def _pickle(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    import torch

    found = torch.load(io.BytesIO(content), weights_only=True)
    key, which = rng.choice(list(found)), rng.randrange(9)
    new = [
        lambda: found[key].to(rng.choice((torch.float64, torch.int8, torch.bool, torch.complex64, torch.bfloat16))),
        lambda: found[key].flatten()[:1].expand(10**6, 10**6),
        lambda: found[key][:0],
        lambda: found[key].to_sparse(),
        lambda: rng.choice((None, 1, "a", [1], {"a": 1})),
        lambda: torch.full_like(found[key].float(), float("nan")),
        lambda: found[key].unsqueeze(0),
        lambda: torch.empty(3, device="meta"),
        lambda: found[key].flatten(),
    ][which]()
    found[key if rng.random() < 0.9 else 7] = new
    held = io.BytesIO()
    torch.save(found, held, _use_new_zipfile_serialization=rng.random() < 0.7)
    return held.getvalue(), f"{key} is {type(new).__name__}"
