"""What the TFDS builders share: from a listing of a source to a prepared dataset.

The shards of a conversion stand in a folder `.conversion` of the data_dir; at its end they move to the dataset's folder.
"""

import collections
import contextlib
import functools
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Sequence
from typing import Any

from geomoe import landsat
from geomoe.data import records
from geomoe.data.builders.conversion import Progress, Shard, ShardResult, content, convert, cut_into_shards
from geomoe.data.builders.listing import Listing, Reader, check_split, write_skipped
from geomoe.data.folder import file_state, masked_state
from geomoe.data.geotiff import PatchError
from geomoe.data.tensorflow_setup import tfds
from geomoe.files import atomic_open

VERSION = "1.0.0"
# Of a prepared dataset: the state of its source, what each shard holds, its own state, and which part of the listing it is.
_SHARDS_FILE = "shards.json"


def check_config_name(name: str) -> None:
    """Raise ValueError for the name of a dataset's configuration that is no plain name of a folder; "" is none."""
    if name and not re.fullmatch(r"[^./\\\0][^/\\\0]*", name):
        raise ValueError(f"{name!r} is no name for a dataset: it must not begin with '.' or hold '/' or a backslash")


def _state_of_source(path: str) -> tuple[Any, ...]:
    """The state of a file of a source; of a folder, which is a scene, that of every file in it: its own time says nothing.

    Statistics and overviews, which programs leave beside the files that they show, are no part of it.
    """
    if not os.path.isdir(path):
        return masked_state(path)
    names = [name for name in os.listdir(path) if not name.endswith((".aux.xml", ".ovr"))]
    return tuple((name, *file_state(os.path.join(path, name))) for name in sorted(names))


def read_manifest(folder: str) -> dict[str, Any] | None:
    """Read what a prepared dataset's `shards.json` says; None where it lacks, as of earlier versions, or is damaged."""
    try:
        with open(os.path.join(folder, _SHARDS_FILE)) as file:
            manifest: dict[str, Any] = json.load(file)
    except (FileNotFoundError, ValueError):
        return None
    return manifest


def _write_manifest(folder: str, manifest: dict[str, Any]) -> None:
    """Write `shards.json`, with the state in which each shard now is."""
    for row in manifest["shards"]:
        row["state"] = file_state(os.path.join(folder, row["file"]))
    with atomic_open(os.path.join(folder, _SHARDS_FILE)) as file:
        json.dump(manifest, file, indent=1)


def shard_content(folder: str, name: str, row: dict[str, Any] | None) -> tuple[int, str]:
    """Say what a shard holds, as `content` does: by its row of `shards.json` where that notes its state, else by reading."""
    path = os.path.join(folder, name)
    if row is not None and row.get("state") == list(file_state(path)):
        return row["records"], row["sha256"]
    return content(path)


class LandsatBuilder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base of the builders: subclasses define `list_source`, `reader` and the dataset's facts.

    Args:
        source: the folder (or whatever the subclass reads) to convert; needed by `download_and_prepare` alone.
        workers: processes that convert; 1, like a small source, works in this process.
        beam_options: of Apache Beam's pipeline, as ("--runner=DirectRunner",), whose workers convert in their place.
        strict: stop at the first flawed patch instead of skipping it.
        keep_nodata: keep patches in which every pixel is without data.
        progress: called with the number of patches done and that of all, now and then.
        **kwargs: as for any TFDS builder (`data_dir`, `config`, ...).
    """

    VERSION = tfds.core.Version(VERSION)
    classes_by_source = False  # whether the names of the classes, and so their indices, depend on the source

    def __init__(
        self,
        *,
        source: str | os.PathLike[str] | None = None,
        workers: int = 1,
        beam_options: Sequence[str] | None = None,
        strict: bool = False,
        keep_nodata: bool = False,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> None:
        self.source = os.fspath(source or "")
        self.workers, self.strict, self.keep_nodata = workers, strict, keep_nodata
        self.beam_options = beam_options
        self._progress = progress or (lambda done, total: None)
        self.resumed_shards = 0
        config = kwargs.get("config")
        check_config_name(config if isinstance(config, str) else getattr(config, "name", ""))
        super().__init__(**kwargs)

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Convert the source; do nothing where that is done already."""
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces sizes that it does not know
            super().download_and_prepare(**kwargs)

    def facts(self) -> dict[str, Any]:
        """class_names, task ("multilabel", "multiclass" or "none"), description, homepage."""
        raise NotImplementedError

    def list_source(self) -> Listing:
        """List the source."""
        raise NotImplementedError

    def reader(self) -> Reader:
        """Give a picklable function from an entry to a record; it raises `PatchError` for a patch that cannot be used."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        facts = self.facts()
        return tfds.core.DatasetInfo(
            builder=self,
            description=facts["description"],
            homepage=facts.get("homepage", ""),
            features=records.features(facts["class_names"]),
            metadata=tfds.core.MetadataDict(task=facts["task"], bands=list(landsat.BANDS), unit="collection2_dn"),
            disable_shuffling=True,  # the records are shuffled once, by a fixed seed, when they are written
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        del dl_manager, download_config
        self._require_source()
        listing = self.list_source()
        for split in listing.splits:
            check_split(split)
        total = sum(len(entries) for entries in listing.splits.values())
        if total == 0 and not listing.skipped:
            raise ValueError(f"no patch in {self.source}; see the layout that {self.name} expects in its docstring")
        if self.strict and listing.skipped:
            first = listing.skipped[0]
            raise PatchError(first.kind, first.path, first.message)
        folder = self._shard_folder(listing)
        shards = cut_into_shards(listing, folder, self.reader(), self.strict)
        results, self.resumed_shards = convert(shards, self.workers, self._progress, self.beam_options)
        skipped = sorted(listing.skipped + [row for result in results for row in result.skipped])
        if not any(result.records for result in results):
            path = write_skipped(folder, skipped)
            kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(collections.Counter(row.kind for row in skipped).items()))
            raise ValueError(
                f"none of the {total + len(listing.skipped)} patches of {self.source} can be used ({kinds}); see {path}"
            )
        self._take_over(listing, list(zip(shards, results)))
        write_skipped(os.fspath(self.data_path), skipped)
        shutil.rmtree(folder)

    def _require_source(self) -> None:
        if not self.source:
            raise ValueError(f"{self.name} needs a source, the folder to convert")
        if not os.path.isdir(self.source):
            raise FileNotFoundError(f"the source folder {self.source} does not exist")

    def _shard_folder(self, listing: Listing) -> str:
        """The folder of shards of this very listing and state of its files: those of another one are never taken for it."""
        config = self.builder_config.name if self.builder_config else "default"
        name = f"{self.name}-{config}-{self._source_state(listing)[:12]}"
        folder = os.path.join(self._data_dir_root, ".conversion", name)
        os.makedirs(folder, exist_ok=True)
        return folder

    def _source_state(self, listing: Listing) -> str:
        """SHA-256 in hex of a listing, the sizes and times of its files, and what else decides on its records."""
        state = functools.cache(_state_of_source)
        second = lambda entry: state(entry.details) if isinstance(entry.details, str) else None  # a file of labels
        rows = [[split, *e, state(e.path), second(e)] for split, entries in listing.splits.items() for e in entries]
        classes = self.info.features["labels"].feature.names if self.classes_by_source else ""  # records hold their indices
        text = f"{VERSION} {self.keep_nodata} {json.dumps(rows, default=str)}{classes}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _take_over(self, listing: Listing, shards: list[tuple[Shard, ShardResult]]) -> None:
        """Move finished shards to the dataset's folder and tell TFDS of them."""
        infos, manifest = [], []
        for split in listing.splits:
            filled = [(shard, result) for shard, result in shards if shard.split == split and result.records]
            if not filled:
                continue
            names = dict(dataset_name=self.name, split=split, filetype_suffix="tfrecord")
            template = tfds.core.ShardedFileTemplate(self.data_path, **names)
            for i, (shard, result) in enumerate(filled):
                path = os.fspath(template.sharded_filepath(shard_index=i, num_shards=len(filled)))
                shutil.move(shard.path, path)
                part = {"file": os.path.basename(path), "part": os.path.basename(shard.path)}
                manifest.append({**part, "records": result.records, "sha256": result.sha256})
            lengths, size = [result.records for _, result in filled], sum(result.bytes for _, result in filled)
            infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template))
        self.info.set_splits(tfds.core.SplitDict(infos))
        _write_manifest(os.fspath(self.data_path), {"source": self._source_state(listing), "shards": manifest})

    def _manifest(self) -> dict[str, Any]:
        manifest = read_manifest(self.data_dir)
        if manifest is None:
            what = f"{self.name} is not prepared there, or by an earlier version, or the file is damaged; prepare it anew"
            raise FileNotFoundError(f"there is no readable {os.path.join(self.data_dir, _SHARDS_FILE)}: {what}")
        return manifest

    def source_has_changed(self) -> bool:
        """Whether the source has other files, labels or times of modification than when the dataset was prepared.

        False as well where there is no source, or an earlier version did not write down what it was.
        """
        try:
            self._require_source()
            before = self._manifest()["source"]
        except (ValueError, FileNotFoundError):
            return False
        return bool(before != self._source_state(self.list_source()))

    def verify(self) -> list[str]:
        """Read every shard of the prepared dataset, and convert those that are damaged again from the source.

        Returns:
            The names of the shards that were written anew.

        Raises:
            FileNotFoundError: the dataset is not prepared, or was by a version that did not write down what shards hold.
            ValueError: shards are damaged, and there is no source, or it gives other records than before; nothing is changed.
        """
        whole = self._manifest()
        manifest = whole["shards"]
        where = {row["file"]: os.path.join(self.data_dir, os.path.basename(row["file"])) for row in manifest}
        damaged = [row for row in manifest if content(where[row["file"]]) != (row["records"], row["sha256"])]
        if not damaged:
            return []
        names = [row["file"] for row in damaged]
        what = f"{len(names)} of {len(manifest)} shards in {self.data_dir} are damaged ({', '.join(names[:3])})"
        try:
            self._require_source()
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"{what}; --source, or source=, rebuilds them: {error}") from None
        listing = self.list_source()
        folder = self._shard_folder(listing)
        parts = {os.path.basename(shard.path): shard for shard in cut_into_shards(listing, folder, self.reader(), False)}
        todo = [parts[row["part"]] for row in damaged if row["part"] in parts]
        results, _ = convert(todo, self.workers, self._progress, self.beam_options)
        if [result.sha256 for result in results] != [row["sha256"] for row in damaged]:
            shutil.rmtree(folder)
            raise ValueError(
                f"{what}, and {self.source} now gives other records than they had, so the source, its table or an option is "
                f"another; remove {self.data_dir} and prepare it anew"
            )
        for shard, name in zip(todo, names):
            shutil.move(shard.path, where[name])
        _write_manifest(self.data_dir, whole)
        shutil.rmtree(folder)
        return names
