"""Read the binary files of CIFAR-10: images of 32 x 32 x 3 pixels, and their labels.

Only the binary version (cifar-10-binary.tar.gz) is read: files of the Python version are pickles,
which can run any code when they are read. A record is one byte for the label and 3,072 bytes for
the pixels, the channels one after the other. Images come in the shape that `disco.fit` takes.
"""

import pathlib

import numpy as np

SHAPE = (3, 32, 32)
RECORD = 1 + int(np.prod(SHAPE))


def read_batch(path):
    """Images (n, 32, 32, 3), from -1 to 1, and labels (n,) of one binary file."""
    content = np.fromfile(path, np.uint8)
    if len(content) % RECORD or not len(content):
        raise ValueError(
            f"Expected records of {RECORD} bytes in {path}; got {len(content)} bytes. Is it a file "
            "of the binary version?"
        )
    records = content.reshape(-1, RECORD)
    images = records[:, 1:].reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
    return images / np.float32(127.5) - 1, records[:, 0]


def load_cifar10(folder, train=True):
    """All training images with labels, or the test images."""
    paths = sorted(pathlib.Path(folder).glob("data_batch_*.bin" if train else "test_batch.bin"))
    if not paths:
        raise ValueError(f"Expected files such as data_batch_1.bin in {folder}; found none.")
    images, labels = zip(*map(read_batch, paths), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def write_batch(path, images, labels):
    """Write images (n, 32, 32, 3) from 0 to 255, and labels (n,), as one binary file."""
    pixels = np.asarray(images, np.uint8).transpose(0, 3, 1, 2).reshape(len(images), -1)
    np.concatenate([np.asarray(labels, np.uint8)[:, None], pixels], axis=1).tofile(path)
