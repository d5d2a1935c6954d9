"""The record of every prepared dataset: as TFDS declares it, as bytes, and read back."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from geomoe import landsat, metadata
from geomoe.data.tensorflow_setup import tf, tfds

# The same as `features`, as it stands in a file.
_STORED = {
    "id": tf.io.FixedLenFeature([], tf.string),
    "image/shape": tf.io.FixedLenFeature([3], tf.int64),
    "image/value": tf.io.FixedLenFeature([], tf.string),
    "latitude": tf.io.FixedLenFeature([], tf.float32),
    "longitude": tf.io.FixedLenFeature([], tf.float32),
    "time": tf.io.FixedLenFeature([], tf.string),
    "labels": tf.io.RaggedFeature(tf.int64),
}


def features(class_names: Iterable[str]) -> tfds.features.FeaturesDict:
    """Declare the record of a dataset."""
    shape, as_bytes = (None, None, len(landsat.BANDS)), tfds.features.Encoding.BYTES
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),  # name of the patch
            "image": tfds.features.Tensor(shape=shape, dtype=np.uint16, encoding=as_bytes),  # digital numbers, 0 without data
            "latitude": np.float32,  # degrees, of the patch's middle; NaN if unknown
            "longitude": np.float32,
            "time": tfds.features.Text(),  # UTC, as `geomoe.metadata.format_time` writes it
            "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=list(class_names))),  # one if multi-class
        }
    )


def record(
    patch_id: str, image: np.ndarray, latitude: float, longitude: float, time: np.datetime64, labels: Sequence[int]
) -> dict[str, Any]:
    """Put a record together; a NaT time is unknown."""
    fields = {"id": patch_id, "image": image, "latitude": latitude, "longitude": longitude}
    return {**fields, "time": metadata.format_time(time), "labels": labels}


def serialize(record: Mapping[str, Any]) -> bytes:
    """Write a record in the form in which TFDS stores `features`.

    Written out here because TFDS's own encoder takes several times as long as reading the patch; a test holds the two equal.
    """
    image = np.ascontiguousarray(record["image"], dtype="<u2")
    text = lambda value: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    integers = lambda values: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    number = lambda value: tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    stored = {
        "id": text(record["id"].encode()),
        "image/shape": integers(image.shape),
        "image/value": text(image.tobytes()),
        "latitude": number(record["latitude"]),
        "longitude": number(record["longitude"]),
        "time": text(record["time"].encode()),
        "labels": integers(record["labels"]),
    }
    return tf.train.Example(features=tf.train.Features(feature=stored)).SerializeToString(deterministic=True)


def parse(raw: tf.Tensor) -> dict[str, Any]:
    """Read (B,) serialized records: images as (B,) strings of uint16 and (B, 3) shapes, labels ragged."""
    return tf.io.parse_example(raw, _STORED)


def count(path: epath.Path) -> int:
    """Count the records of a TFRecord file by their lengths, without reading them; -1 where the file ends within one."""
    size, position, total = path.stat().length, 0, 0
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            position += struct.unpack("<Q", file.read(8))[0] + 16  # length and its checksum, the record and its checksum
            total += 1
    return total if position == size else -1
