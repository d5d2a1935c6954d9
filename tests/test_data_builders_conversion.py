"""Conversion: resumable, parallel, whole."""

import shutil

import numpy as np
import pytest
from geotiffs import BIGEARTHNET_ID, pixels, write_bigearthnet, write_tif

from geomoe.cli import prepare
from geomoe.data.builders import BigearthnetLandsat, LandsatFolder, conversion
from geomoe.data.builders.listing import Entry, Listing


def test_every_patch_is_in_one_shard_always_the_same_way():
    listing = Listing({"train": [Entry(str(i), "") for i in range(5000)], "val": [Entry("v", "")], "test": []})
    shards = conversion.cut_into_shards(listing, "x", None, False)
    assert [shard.split for shard in shards] == ["train"] * 8 + ["val"]
    ids = [entry.id for shard in shards[:8] for entry in shard.entries]
    assert sorted(ids, key=int) == [str(i) for i in range(5000)] and ids != sorted(ids, key=int)
    again = conversion.cut_into_shards(listing, "x", None, False)
    assert [shard.entries for shard in shards] == [shard.entries for shard in again]
    many = conversion.cut_into_shards(Listing({"train": [Entry(str(i), "") for i in range(30000)]}), "x", None, False)
    assert len(many) == 15 and max(len(shard.entries) for shard in many) <= 2048


def test_an_interrupted_conversion_goes_on_and_a_changed_source_starts_anew(tmp_path, monkeypatch):
    ids = [BIGEARTHNET_ID.format(2, i) for i in range(10)]
    source = write_bigearthnet(tmp_path / "source", ids)
    whole = conversion.write_shard
    calls = []

    def failing(shard):
        calls.append(shard.path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(shard)

    monkeypatch.setattr(conversion, "write_shard", failing)
    with pytest.raises(KeyboardInterrupt):
        BigearthnetLandsat(source=source, data_dir=tmp_path / "data").download_and_prepare()
    assert not (tmp_path / "data" / "bigearthnet_landsat" / "19" / "1.0.0").exists()
    progress = []
    builder = BigearthnetLandsat(source=source, data_dir=tmp_path / "data", progress=lambda *n: progress.append(n))
    builder.download_and_prepare()
    assert builder.resumed_shards == 3 and builder.info.splits["train"].num_examples == 10
    assert progress[0][0] > 0 and progress[-1] == (10, 10)
    assert {e["id"].decode() for e in builder.as_dataset("train").as_numpy_iterator()} == set(ids)
    assert not list((tmp_path / "data" / ".conversion").iterdir())
    # Half a conversion of another list of patches is no part of this one.
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        BigearthnetLandsat(source=source, data_dir=tmp_path / "other").download_and_prepare()
    builder = BigearthnetLandsat(source=source, data_dir=tmp_path / "other", keep_nodata=True)
    builder.download_and_prepare()
    assert builder.resumed_shards == 0  # nor is one that left out other patches
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        BigearthnetLandsat(source=source, data_dir=tmp_path / "third").download_and_prepare()
    write_bigearthnet(source, [*ids, BIGEARTHNET_ID.format(2, 10)])
    builder = BigearthnetLandsat(source=source, data_dir=tmp_path / "third")
    builder.download_and_prepare()
    assert builder.resumed_shards == 0 and builder.info.splits["train"].num_examples == 11
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        BigearthnetLandsat(source=source, data_dir=tmp_path / "fourth").download_and_prepare()
    write_tif(source / "images" / f"{ids[0]}.tif", pixels(seed=99))  # another image of the same name and size
    builder = BigearthnetLandsat(source=source, data_dir=tmp_path / "fourth")
    builder.download_and_prepare()
    assert builder.resumed_shards == 0


def test_a_shard_cut_short_is_written_again(tmp_path):
    write_tif(tmp_path / "a.tif", pixels())
    record = {"id": "a", "image": pixels(), "latitude": 0.0, "longitude": 0.0, "time": "unknown", "labels": [1]}
    shard = conversion.Shard("train", str(tmp_path / "s.tfrecord"), [Entry("a", "")], lambda entry: record, False)
    assert conversion.finished(shard) is None
    result = conversion.write_shard(shard)
    assert conversion.finished(shard) == result
    assert result._replace(sha256="") == (1, (tmp_path / "s.tfrecord").stat().st_size, "", [])
    (tmp_path / "s.tfrecord").write_bytes((tmp_path / "s.tfrecord").read_bytes()[:-1])
    assert conversion.finished(shard) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "s.tfrecord", "s.tfrecord.json"]


def test_workers_write_the_same_records(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "_MIN_PARALLEL", 1)
    ids = [BIGEARTHNET_ID.format(3, i) for i in range(6)]
    source = write_bigearthnet(tmp_path / "source", ids)
    (source / "labels" / f"{ids[2]}_labels_metadata.json").unlink()
    contents = []
    for workers in (1, 2):
        builder = BigearthnetLandsat(source=source, data_dir=tmp_path / str(workers), workers=workers)
        builder.download_and_prepare()
        files = sorted(builder.data_path.glob("*.tfrecord*")) + [builder.data_path / "skipped.csv"]
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1] and len(contents[0]) > 2
    assert np.sum([ids[2].encode() in content for content in contents[0]]) == 1


def damage_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_shards_are_found_and_rebuilt_one_by_one(tmp_path, capsys):
    """Emptied, lost, with a flipped bit, or another shard of the same length: as they were; the others are not touched."""
    ids = [BIGEARTHNET_ID.format(4, i) for i in range(9)]
    source = write_bigearthnet(tmp_path / "source", ids)
    label = source / "labels" / f"{ids[3]}_labels_metadata.json"
    label.rename(tmp_path / "label")  # the patch of one shard is skipped, so that shards and parts are numbered otherwise
    (source / "bigearthnet-train.csv").write_text("\n".join(ids[:8]))
    (source / "bigearthnet-test.csv").write_text(ids[8])
    BigearthnetLandsat(source=source, data_dir=tmp_path / "data").download_and_prepare()
    folder = tmp_path / "data" / "bigearthnet_landsat" / "19" / "1.0.0"
    shards = sorted(folder.glob("*.tfrecord*"))
    assert len(shards) == 8
    whole = {path.name: path.read_bytes() for path in shards}
    command = ["--dataset", "bigearthnet_landsat", "--data_dir", str(tmp_path / "data"), "--verify"]
    prepare.main(command)
    assert "are whole" in capsys.readouterr().err
    shards[1].write_bytes(b"")
    shards[2].unlink()
    damage_bit(shards[4])
    shards[6].write_bytes(shards[7].read_bytes())
    with pytest.raises(ValueError, match="4 of 8 shards in .*--source, or source=, rebuilds them"):
        prepare.main(command)
    times = {path: path.stat().st_mtime_ns for path in (shards[0], shards[3], shards[5], shards[7])}
    prepare.main([*command, "--source", str(source)])
    assert {path.name: path.read_bytes() for path in sorted(folder.glob("*.tfrecord*"))} == whole
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert BigearthnetLandsat(data_dir=tmp_path / "data").verify() == []
    assert not list((tmp_path / "data" / ".conversion").iterdir())
    # A source that has changed gives other records: they do not go among those of before.
    label.write_bytes((tmp_path / "label").read_bytes())
    write_tif(source / "images" / f"{ids[0]}.tif", pixels(seed=50))
    for path in shards[:7]:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="7 of 8 shards .* gives other records than they had"):
        prepare.main([*command, "--source", str(source)])
    assert all(path.read_bytes() == b"" for path in shards[:7])
    with pytest.raises(FileNotFoundError, match="shards.json: bigearthnet_landsat is not prepared there"):
        BigearthnetLandsat(data_dir=tmp_path / "other").verify()


def test_a_source_that_has_changed_is_said_to_have(tmp_path, capsys):
    """Corrected labels are not taken silently for those of before, nor are those of before for them."""
    ids = [BIGEARTHNET_ID.format(8, i) for i in range(3)]
    command = ["--dataset", "bigearthnet_landsat", "--data_dir", str(tmp_path / "data"), "--source", str(tmp_path / "source")]
    source, changed = write_bigearthnet(tmp_path / "source", ids), "from other files or labels than the source has now"
    prepare.main(command)
    prepare.main(command)
    said = capsys.readouterr().err
    assert "is prepared already" in said and changed not in said
    label = source / "labels" / f"{ids[1]}_labels_metadata.json"
    label.write_text(label.read_text().replace("Airports", "Sea and ocean"))
    prepare.main(command)
    assert changed in capsys.readouterr().err
    (tmp_path / "data" / "bigearthnet_landsat" / "19" / "1.0.0" / "shards.json").unlink()  # as earlier versions left it
    prepare.main(command)
    shutil.rmtree(source)
    prepare.main(command)
    assert changed not in capsys.readouterr().err


def test_another_list_of_classes_is_another_source(tmp_path, monkeypatch):
    """Records hold indices into the list, which a row without a file has a part in; and a mask beside a patch is part of it."""

    def builder(ghost):
        rows = "".join(f"p{i:02},{'Forest' if i % 2 else 'Water'}\n" for i in range(16))
        (tmp_path / "l.csv").write_text(f"id,label\n{rows}ghost,{ghost}\n")
        options = dict(source=tmp_path / "in", labels=tmp_path / "l.csv", data_dir=tmp_path / "out")
        return LandsatFolder(**options)

    for i in range(16):
        write_tif(tmp_path / "in" / f"p{i:02}.tif", pixels(seed=i))
    real, calls = conversion.write_shard, []

    def interrupted(shard):
        calls.append(shard)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return real(shard)

    monkeypatch.setattr(conversion, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        builder("Zebra").download_and_prepare()
    monkeypatch.setattr(conversion, "write_shard", real)
    done = builder("Airport")
    done.download_and_prepare()
    assert done.resumed_shards == 0 and not done.source_has_changed()
    names = done.info.features["labels"].feature.names
    for example in done.as_dataset(split="train").as_numpy_iterator():
        wanted = "Forest" if int(example["id"].decode()[1:]) % 2 else "Water"
        assert [names[i] for i in example["labels"]] == [wanted]
    assert builder("Moor").source_has_changed()
    (tmp_path / "in" / "p03.tif.msk").write_bytes(b"x")
    assert builder("Airport").source_has_changed()


def test_labels_that_are_a_list_of_python_are_refused(tmp_path):
    write_tif(tmp_path / "in" / "a.tif", pixels())
    (tmp_path / "l.csv").write_text("id,labels\na,\"['Forest', 'River']\"\n")
    with pytest.raises(ValueError, match="is a list as Python writes it; join the names by ';'"):
        LandsatFolder(source=tmp_path / "in", labels=tmp_path / "l.csv", data_dir=tmp_path / "out").download_and_prepare()
