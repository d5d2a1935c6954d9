"""The record: as TFDS stores it, and back."""

import numpy as np
import tensorflow as tf
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from geomoe.data import records, synthetic

RECORD = {key: value for key, value in synthetic.record(0, "train", 5).items() if key != "dominant"}


def test_our_serializer_writes_what_tfds_writes():
    features = records.features(synthetic.CLASSES)
    theirs = ExampleSerializer(features.get_serialized_info()).serialize_example(features.encode_example(RECORD))
    fields = lambda raw: {k: v.SerializeToString() for k, v in tf.train.Example.FromString(raw).features.feature.items()}
    assert fields(theirs) == fields(records.serialize(RECORD))


def test_records_come_back():
    bare = {**RECORD, "id": "b", "labels": [], "latitude": np.nan, "image": RECORD["image"][:30, :20], "time": "unknown"}
    fields = records.parse(tf.constant([records.serialize(RECORD), records.serialize(bare)]))
    for row, record in enumerate((RECORD, bare)):
        image = np.frombuffer(fields["image/value"][row].numpy(), np.uint16).reshape(fields["image/shape"][row])
        np.testing.assert_array_equal(image, record["image"])
        assert fields["labels"][row].numpy().tolist() == record["labels"]
        assert (fields["id"][row].numpy().decode(), fields["time"][row].numpy().decode()) == (record["id"], record["time"])
        for name in ("latitude", "longitude"):
            np.testing.assert_array_equal(fields[name][row], np.float32(record[name]))
