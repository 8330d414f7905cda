"""The reader of CIFAR-10's binary files, in examples/images."""

import pathlib
import runpy

import numpy as np
import pytest

PATH = pathlib.Path(__file__).resolve().parents[2] / "examples" / "images" / "cifar10.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(PATH))


def test_records_are_read_as_images_and_labels(script, tmp_path):
    """A record is the label, then all red, all green and all blue pixels, line by line."""
    record = np.zeros((2, 3073), np.uint8)
    record[:, 0] = 3, 9
    # Red in line 0, column 2; green in line 1, column 0; blue in the last pixel.
    record[1, [1 + 2, 1 + 1024 + 32, 3072]] = 255, 51, 102
    record.tofile(tmp_path / "data_batch_1.bin")
    record[:1].tofile(tmp_path / "test_batch.bin")
    images, labels = script["load_cifar10"](tmp_path)
    assert images.shape == (2, 32, 32, 3) and labels.tolist() == [3, 9]
    pixels = (images[1] + 1) * 127.5
    np.testing.assert_allclose(pixels[[0, 1, 31], [2, 0, 31]], np.diag([255, 51, 102]), atol=1e-4)
    assert np.count_nonzero(np.round(pixels)) == 3
    assert script["load_cifar10"](tmp_path, train=False)[0].shape == (1, 32, 32, 3)


def test_what_is_written_is_read(script, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3))
    script["write_batch"](tmp_path / "one.bin", images, [1, 2, 3])
    found, labels = script["read_batch"](tmp_path / "one.bin")
    np.testing.assert_array_equal(np.round((found + 1) * 127.5), images)
    assert labels.tolist() == [1, 2, 3]


def test_other_files_are_refused(script, tmp_path):
    with pytest.raises(ValueError, match=r"data_batch_1\.bin"):
        script["load_cifar10"](tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(b"not a record")
    with pytest.raises(ValueError, match="records of 3073 bytes"):
        script["load_cifar10"](tmp_path)
