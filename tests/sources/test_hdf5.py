"""HDF5 files that borrow from others: refused, whatever way they do it."""

import h5py
import numpy as np
import pytest

from seqrl.core.errors import DataError
from seqrl.sources import d4rl, minari


def raw(file, way, values, secret):
    (secret / "raw.bin").write_bytes(values.tobytes())
    file.create_dataset(way, values.shape, values.dtype, external=[(str(secret / "raw.bin"), 0, h5py.h5f.UNLIMITED)])


def virtual(file, way, values, secret):
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource(str(secret / "other.hdf5"), "x", values.shape, values.dtype)
    file.create_virtual_dataset(way, layout)


def link(file, way, values, secret):
    file[way] = h5py.ExternalLink(str(secret / "other.hdf5"), "x")


def soft_to_link(file, way, values, secret):
    file["elsewhere"] = h5py.ExternalLink(str(secret / "other.hdf5"), "/")
    file[way] = h5py.SoftLink("/elsewhere/x")


def group_link(file, way, values, secret):
    """The array is at home, something that nobody asks for is not."""
    file[way] = values
    file["infos/deep"] = h5py.ExternalLink(str(secret / "other.hdf5"), "/")


def borrow(how, path, way, folder):
    secret = folder / "secret"
    secret.mkdir()
    with h5py.File(path, "a") as file:
        values = file[way][()]
        with h5py.File(secret / "other.hdf5", "w") as other:
            other["x"] = values
        del file[way]
        how(file, way, values, secret)
        # The trap is real: h5py itself would read it.
        np.testing.assert_array_equal(file[way][()], values)


WAYS = [
    (raw, "keeps its values in another file"),
    (virtual, "keeps its values in another file"),
    (link, "is a link to another file"),
    (soft_to_link, "'elsewhere' is a link to another file"),
    (group_link, "'infos/deep' is a link to another file"),
]


@pytest.mark.parametrize(("how", "said"), WAYS)
@pytest.mark.parametrize("column", ["observations", "rewards"])
def test_minari(home, how, said, column):
    config = minari.tiny(home)
    borrow(how, home / "datasets" / config.id / "data" / "main_data.hdf5", f"episode_1/{column}", home)
    with pytest.raises(DataError, match=said):
        minari.Source(config).episode(1)


@pytest.mark.parametrize("how", [raw, virtual])
def test_minari_texts(home, memory, how):
    """Texts are read on another way; HDF5 lets only a virtual array hold them, so numbers stand in here."""
    from seqrl.sources._minari_files import Hdf5Reader
    from seqrl.sources._spaces import leaves

    config = minari.tiny(home)
    folder = home / "datasets" / config.id / "data"
    borrow(how, folder / "main_data.hdf5", "episode_1/observations", home)
    words = leaves({"type": "Text", "max_length": 9, "min_length": 0, "charset": "abc"}, "observation")
    with pytest.raises(DataError, match="keeps its values in another file"):
        Hdf5Reader(folder, words, [], False).read(1)


@pytest.mark.parametrize(("how", "said"), WAYS)
@pytest.mark.parametrize("column", ["observations", "timeouts"])
def test_d4rl(home, how, said, column):
    config = d4rl.tiny(home)
    borrow(how, config.path, column, home)
    with pytest.raises(DataError, match=said):
        len(d4rl.Source(config))


def test_links_within_the_file_are_fine(home):
    config = d4rl.tiny(home)
    with h5py.File(config.path, "a") as file:
        file["kept/here"] = file["rewards"]
        del file["rewards"]
        file["rewards"] = h5py.SoftLink("/kept/here")
    assert d4rl.Source(config).lengths.tolist() == [4, 5, 3]
