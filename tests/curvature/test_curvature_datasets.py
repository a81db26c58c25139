import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch

from prunebench.core.errors import InvalidInput, MissingData
from prunebench.data import mnist
from prunebench.data.mnist import IdxFile, ImageSet, load_images, missing_files, read_idx
from prunebench.networks.samples import ImageSamples, TensorSamples

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([7, 1], dtype=np.uint8)


def idx(array, element=8):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, element, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A set of two images a part under a data folder of its own, its mirror a folder as well."""
    monkeypatch.setenv("PRUNEBENCH_DATA", str(tmp_path / "data"))
    mirror = tmp_path / "mirror"
    mirror.mkdir()

    def file(name, array):
        packed = gzip.compress(idx(array), mtime=0)
        (mirror / f"{name}.gz").write_bytes(packed)
        return IdxFile(name, array.shape, hashlib.md5(packed).hexdigest())

    parts = {part: (file(f"{part}-images", IMAGES), file(f"{part}-labels", LABELS)) for part in ("train", "test")}
    return ImageSet("Tiny", "tiny/raw", (mirror.as_uri() + "/",), **parts)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(mnist.urllib.request, "urlopen", refuse)


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_an_idx_file_is_read_packed_or_not(tmp_path, name):
    content = idx(IMAGES)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    np.testing.assert_array_equal(read_idx(tmp_path / name), IMAGES)


@pytest.mark.parametrize("length", [0, 3, 10, 20])
def test_a_truncated_idx_file_is_an_error_that_names_it(tmp_path, length):
    (tmp_path / "images").write_bytes(idx(IMAGES)[:length])
    with pytest.raises(InvalidInput, match=r"images.*(truncated|not an idx file).*fetch it again"):
        read_idx(tmp_path / "images")


def test_a_truncated_packed_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx(IMAGES))[:-12])
    with pytest.raises(InvalidInput, match=r"images\.gz.*truncated"):
        read_idx(tmp_path / "images.gz")


def test_a_file_longer_than_its_header_says_is_an_error(tmp_path):
    (tmp_path / "images").write_bytes(idx(IMAGES) + b"\0")
    with pytest.raises(InvalidInput, match="promises 24 bytes"):
        read_idx(tmp_path / "images")


def test_elements_of_another_type_are_an_error(tmp_path):
    (tmp_path / "images").write_bytes(idx(IMAGES, element=13))
    with pytest.raises(InvalidInput, match="not an idx file of unsigned bytes"):
        read_idx(tmp_path / "images")


def test_missing_files_name_the_folder_the_files_and_the_variable_in_one_line(tiny, tmp_path):
    text = missing_files(tiny)
    for part in (
        str(tmp_path / "data" / "tiny" / "raw"),
        "train-images.gz",
        "test-labels.gz",
        "PRUNEBENCH_DATA",
        "--data",
    ):
        assert part in text
    assert "\n" not in text


def test_missing_files_fetches_nothing(tiny, tmp_path):
    missing_files(tiny)
    assert not (tmp_path / "data").exists()


def test_files_that_are_not_there_are_fetched_into_the_data_folder(tiny, tmp_path):
    images, labels = load_images(tiny, "train")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    held = sorted(path.name for path in (tmp_path / "data" / "tiny" / "raw").iterdir())
    assert held == ["train-images.gz", "train-labels.gz"]


def test_a_download_with_the_wrong_checksum_is_not_kept(tiny, tmp_path):
    mirrored = tmp_path / "mirror" / "train-images.gz"
    mirrored.write_bytes(mirrored.read_bytes() + b"x")
    with pytest.raises(MissingData, match="checksum"):
        load_images(tiny, "train")
    assert not (tmp_path / "data").exists()


@pytest.mark.usefixtures("offline")
def test_without_files_and_network_one_line_says_what_to_put_where(tiny):
    with pytest.raises(MissingData, match=r"put .*train-images\.gz.* there.*no network") as caught:
        load_images(tiny, "train")
    assert "\n" not in str(caught.value)


def test_a_file_of_another_size_than_the_set_has_is_an_error(tiny, tmp_path):
    folder = tmp_path / "data" / "tiny" / "raw"
    folder.mkdir(parents=True)
    (folder / "train-images").write_bytes(idx(IMAGES[:1]))
    with pytest.raises(InvalidInput, match=r"\(1, 3, 4\).*\(2, 3, 4\)"):
        load_images(tiny, "train")


def test_image_samples_are_normalised_when_they_are_fetched():
    inputs, targets = ImageSamples(IMAGES, LABELS, mean=0.25, std=0.5).batch(np.array([1, 0]))
    np.testing.assert_allclose(inputs.numpy(), (IMAGES[[1, 0]] / 255 - 0.25) / 0.5, rtol=1e-6)
    assert inputs.dtype == torch.float32
    assert targets.tolist() == [1, 7]
    assert targets.dtype == torch.int64


def test_tensor_samples_come_in_the_order_of_the_positions():
    samples = TensorSamples(torch.arange(10.0)[:, None], torch.arange(10))
    inputs, targets = samples.batch(np.array([4, 4, 0]))
    assert inputs[:, 0].tolist() == [4.0, 4.0, 0.0]
    assert targets.tolist() == [4, 4, 0]


def test_inputs_and_targets_of_different_length_are_refused():
    with pytest.raises(InvalidInput, match="same number of samples"):
        TensorSamples(torch.zeros(3, 2), torch.zeros(4))


@pytest.mark.parametrize("positions", [[], [[0]], [0.5], [-1], [3]])
def test_positions_that_are_no_positions_are_refused(positions):
    with pytest.raises(InvalidInput, match="position"):
        TensorSamples(torch.zeros(3, 2), torch.zeros(3)).batch(np.array(positions))
