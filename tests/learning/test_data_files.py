from __future__ import annotations

import gzip
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from secure_fu.errors import ArgumentError, DataError
from secure_fu.learning import csv_file, idx_folder, npz_file, tables

NAMES = {
    "train-images-idx3-ubyte": (8, 3, 2),
    "train-labels-idx1-ubyte": (8,),
    "t10k-images-idx3-ubyte": (4, 3, 2),
    "t10k-labels-idx1-ubyte": (4,),
}


def idx_bytes(shape: tuple[int, ...], kind: int = 8, claim: tuple[int, ...] | None = None) -> bytes:
    count = int(np.prod(shape))
    values = bytes(i % 10 for i in range(count)) if len(shape) == 1 else bytes(i % 256 for i in range(count))
    sizes = shape if claim is None else claim
    return struct.pack(f">4B{len(sizes)}I", 0, 0, kind, len(sizes), *sizes) + values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, shape in NAMES.items():
        (tmp_path / name).write_bytes(idx_bytes(shape))
    return tmp_path


def test_idx(folder: Path) -> None:
    data = idx_folder(folder)
    assert data.train.shape == (1, 3, 2)
    assert (len(data.train), len(data.test), data.classes) == (8, 4, 8)
    np.testing.assert_allclose(data.train.features.flatten().numpy(), np.arange(48) / 255.0, rtol=1e-6)
    assert data.test.labels.tolist() == [0, 1, 2, 3]


def test_idx_gzipped_and_with_dots(folder: Path) -> None:
    plain = idx_folder(folder)
    for name in NAMES:
        file = folder / name
        (folder / f"{name.replace('-idx', '.idx')}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    packed = idx_folder(folder)
    np.testing.assert_array_equal(packed.train.features.numpy(), plain.train.features.numpy())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("train-images-idx3-ubyte", idx_bytes((8, 3, 2))[:-1], "holds 47 values; expected 48"),
        ("train-images-idx3-ubyte", idx_bytes((8, 3, 2)) + b"x", "holds more values; expected 48"),
        ("train-images-idx3-ubyte", b"\0\0\x08", "ends inside its header"),
        ("train-images-idx3-ubyte", b"", "ends inside its header"),
        ("train-images-idx3-ubyte", idx_bytes((8, 3, 2), kind=13), "starts with 0x00000d03; expected 0x00000803"),
        ("train-labels-idx1-ubyte", idx_bytes((8, 1, 1)), "starts with 0x00000803; expected 0x00000801"),
        ("train-labels-idx1-ubyte", idx_bytes((7,)), "7 labels for the 8 images"),
        ("t10k-images-idx3-ubyte", idx_bytes((4, 3, 3)), "features of shape"),
        ("t10k-images-idx3-ubyte", idx_bytes((4, 3, 2), claim=(4, 0, 2)), "claims the shape"),
        ("t10k-images-idx3-ubyte", idx_bytes((4, 3, 2), claim=(2**32 - 1,) * 3), "claims the shape"),
        ("t10k-images-idx3-ubyte", idx_bytes((4, 3, 2), claim=(2**31, 1, 1)), "holds 24 values"),
    ],
)
def test_bad_idx_files_are_named(folder: Path, name: str, content: bytes, match: str, packed: bool) -> None:
    (folder / name).unlink()
    file = folder / (name + ".gz" if packed else name)
    file.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=match) as caught:
        idx_folder(folder)
    assert name in str(caught.value) or match == "features of shape"


def test_damaged_gzip_and_missing_files(folder: Path, tmp_path: Path) -> None:
    name = "t10k-labels-idx1-ubyte"
    whole = gzip.compress((folder / name).read_bytes())
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"no test labels; expected a file {name}"):
        idx_folder(folder)
    for damaged in (whole[:-9], b"not gzip", whole[:12] + b"\xff\xff\xff" + whole[15:]):
        (folder / f"{name}.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=f"{name}.gz"):
            idx_folder(folder)
    with pytest.raises(DataError, match="no folder"):
        idx_folder(tmp_path / "nowhere")


def test_a_small_file_that_unpacks_to_much_is_stopped(folder: Path) -> None:
    name = "train-images-idx3-ubyte"
    (folder / name).unlink()
    (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes((8, 3, 2)) + bytes(50_000_000)))
    with pytest.raises(DataError, match="holds more values"):
        idx_folder(folder)


def test_empty_parts_are_refused(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes((0, 3, 2)))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes((0,)))
    with pytest.raises(DataError, match="without images"):
        idx_folder(folder)


def test_mnist() -> None:
    beside = Path(__file__).parents[2] / ".." / "shared" / "data" / "mnist"
    place = Path(os.environ.get("SECURE_FU_MNIST", beside))
    if not place.is_dir():
        pytest.skip("no MNIST; set SECURE_FU_MNIST to a folder with its four files")
    data = idx_folder(place)
    assert (len(data.train), len(data.test), data.classes) == (60000, 10000, 10)
    assert data.train.shape == (1, 28, 28)
    assert data.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert float(data.train.features.mean()) == pytest.approx(0.1307, abs=1e-4)


TABLE = "age,kind,height,who\n" + "".join(f"{i},{'yes' if i % 3 else 'no'},{i / 2},p{i // 2}\n" for i in range(10))


def test_csv(tmp_path: Path) -> None:
    file = tmp_path / "Table.csv"
    file.write_text("\ufeff" + TABLE, encoding="utf-8")
    data = csv_file(file, label_column="kind", group_column="who", seed=0)
    assert (data.name, data.classes, data.train.shape) == ("table", 2, (2,))
    assert len(data.train) + len(data.test) == 10
    for part in (data.train, data.test):
        assert part.groups is not None
        for (age, height), label, who in zip(part.features.tolist(), part.labels.tolist(), part.groups, strict=True):
            assert height == age / 2
            assert label == (1 if age % 3 else 0)
            assert who == f"p{int(age) // 2}"
    with pytest.raises(DataError, match="line 2, column 'who' is no number"):
        csv_file(file, label_column="kind", seed=0)


def test_csv_class_numbers_stay(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("x,y\n" + "1,2\n2,10\n3,0\n" * 3)
    data = csv_file(file, label_column="y", seed=0)
    assert data.classes == 11
    assert set(data.train.labels.tolist()) <= {0, 2, 10}


@pytest.mark.parametrize(
    ("text", "label", "group", "match"),
    [
        ("", "y", None, "no column 'y'"),
        ("x,y\n", "y", None, "no records"),
        ("x,y\n1,0\n", "y", None, "more records"),
        ("x,y\n1,0\n2,1,3\n", "y", None, "line 3 has 3 fields; expected 2"),
        ("x,y\n1,0\nhush hush,1\n", "y", None, "line 3, column 'x' is no number"),
        ("x,y\n1,0\nnan,1\n", "y", None, "line 3, column 'x' is not finite"),
        ("x,y\n1,0\n1e999,1\n", "y", None, "line 3, column 'x' is not finite"),
        ("x,y\n1,0\n2,\n", "y", None, "line 3, column 'y' is empty"),
        ("x,y\n1,0\n2,1\n", "z", None, "no column 'z'; expected one of 'x', 'y'"),
        ("x,y\n1,0\n2,1\n", "y", "z", "no column 'z'"),
        ("x,y\n1,0\n2,1\n", "y", "y", "two columns"),
        ("x,x,y\n1,1,0\n", "y", None, "names a column twice"),
        ("y\n1\n2\n", "y", None, "no feature column"),
        ('x,y\n"1,0\n2,1\n', "y", None, "CSV text"),
        ("x,y\n" + "1" * 200_000 + ",0\n", "y", None, "CSV text"),
        ("x,y,g\n1,0,a\n2,1,a\n", "y", "g", "1 units"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, label: str, group: str | None, match: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=match) as caught:
        csv_file(file, label_column=label, group_column=group, seed=0)
    assert "hush hush" not in str(caught.value)
    if "number" in match:  # float() quotes what it could not read
        assert caught.value.__suppress_context__
        assert caught.value.__cause__ is None


def test_csv_not_text_or_missing(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(b"x,y\n1,\xff\xfe\n")
    with pytest.raises(DataError, match="UTF-8"):
        csv_file(file, label_column="y", seed=0)
    with pytest.raises(DataError, match="no file"):
        csv_file(tmp_path, label_column="y", seed=0)
    file.write_text("x,y\n1,0\n2,1\n3,1\n")
    with pytest.raises(ArgumentError):
        csv_file(file, label_column="y", seed=0, test_fraction=2.0)


def test_npz(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    rng = np.random.default_rng(0)
    features = rng.standard_normal((20, 2, 3))
    np.savez_compressed(file, features=features, labels=np.arange(20) % 4, groups=np.arange(20) // 2)
    data = npz_file(file, seed=1)
    assert (data.classes, data.train.shape) == (4, (2, 3))
    assert data.train.groups is not None
    assert len(data.train) + len(data.test) == 20


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("the file's code was run",))


def test_npz_never_unpickles(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    objects = np.empty(4, dtype=object)
    objects[:] = [Bomb() for _ in range(4)]
    np.savez(file, features=np.ones((4, 2)), labels=objects)
    with pytest.raises(DataError, match=r"labels\.npy is object"):
        npz_file(file, seed=0)
    file.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="cannot be read"):
        npz_file(file, seed=0)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"features": np.ones((4, 2))}, "no array 'labels'"),
        ({"labels": np.ones(4)}, "no array 'features'"),
        ({"features": np.ones(4), "labels": np.ones(4)}, r"expected \(n, ...\)"),
        ({"features": np.ones((4, 2)), "labels": np.ones(3)}, r"expected \(n, ...\)"),
        ({"features": np.ones((0, 2)), "labels": np.ones(0)}, "no records"),
        ({"features": np.full((4, 2), "a"), "labels": np.ones(4)}, "expected numbers"),
        ({"features": np.full((4, 2), np.nan), "labels": np.ones(4)}, "NaN"),
        ({"features": np.ones((4, 2)), "labels": np.full(4, 0.5)}, "whole number"),
        ({"features": np.ones((4, 2)), "labels": -np.ones(4)}, "negative"),
        ({"features": np.ones((4, 2)), "labels": np.full(4, 10_000)}, "below 10000"),
        ({"features": np.ones((4, 2), dtype=complex), "labels": np.ones(4)}, "is complex128"),
        ({"features": np.ones((4, 2)), "labels": np.ones(4), "groups": np.ones(3, dtype=int)}, "groups are"),
        ({"features": np.ones((4, 2)), "labels": np.ones(4), "groups": np.ones(4)}, "groups are"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, np.ndarray], match: str) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, **arrays)
    with pytest.raises(DataError, match=match):
        npz_file(file, seed=0)


def test_damaged_or_huge_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.npz"
    np.savez_compressed(file, features=np.ones((4000, 2)), labels=np.zeros(4000))
    whole = file.read_bytes()
    middle = len(whole) // 4
    for damaged in (b"", b"PK", whole[:-30], whole[:middle] + b"\xff" * 8 + whole[middle + 8 :]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            npz_file(file, seed=0)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("features.npy", b"no array")
        archive.writestr("labels.npy", b"no array")
    with pytest.raises(DataError):
        npz_file(file, seed=0)
    file.write_bytes(whole)
    monkeypatch.setattr(tables, "_MAXIMUM_BYTES", len(whole))
    with pytest.raises(DataError, match="unpacks to"):
        npz_file(file, seed=0)
    monkeypatch.setattr(tables, "_MAXIMUM_BYTES", len(whole) - 1)
    with pytest.raises(DataError, match="bytes; expected at most"):
        npz_file(file, seed=0)
