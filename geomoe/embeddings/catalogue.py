"""Many scenes: each is embedded to a file of its own, in this process or by Apache Beam on many machines."""

import collections
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from geomoe import beam
from geomoe.data.folder import File, fingerprint
from geomoe.data.preprocess import InputSpec
from geomoe.data.product_files import SceneFiles, find_scene, paths_of, unsigned
from geomoe.data.raster import is_remote
from geomoe.embeddings.results import SceneResult, is_catalogue, read_results, write_results
from geomoe.embeddings.scene import embed_scene
from geomoe.embeddings.sink import Sink
from geomoe.files import atomic_open
from geomoe.models.pooling import Pool
from geomoe.pretrained import PretrainedEncoder, load

Scene = str | os.PathLike[str] | SceneFiles


@dataclasses.dataclass(frozen=True)
class CatalogueJob:
    """How the scenes of a catalogue are embedded; plain values, which go to other machines.

    ValueError where the ending, pool, dtype or interleave is not one that there is.

    Attributes:
        checkpoint, which: of the encoder, as for `geomoe.load`; every worker has to reach it.
        folder: of the outputs, which every worker has to reach.
        ending: ".parquet", ".npz", ".tif" or ".zarr".
        pool, dtype, batch_size, interleave: as for `geomoe.embeddings.Sink`.
        spec, options: as for `geomoe.embeddings.embed_scene`, the options its other arguments by name.
    """

    checkpoint: str
    folder: str
    ending: str = ".parquet"
    which: str | int = "last"
    pool: Pool | None = None
    dtype: str = "float32"
    batch_size: int = 256
    interleave: str = "pixel"
    spec: InputSpec = InputSpec()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sink("*")  # refuses now what it would refuse for every scene

    def output(self, scene: Scene) -> str:
        """The file of a scene's embeddings, by the name of its product, file or folder."""
        return os.path.join(self.folder, f"{_name(scene)}{self.ending}")

    def sink(self, scene: Scene) -> Sink:
        """Where a scene's embeddings go, and how."""
        return Sink(self.output(scene), self.pool, self.dtype, self.batch_size, interleave=self.interleave)


def _plain(scene: Scene) -> str | SceneFiles:
    return scene if isinstance(scene, SceneFiles) else os.fspath(scene)


def _name(scene: Scene) -> str:
    if isinstance(scene, SceneFiles):
        return scene.name
    base = os.path.basename(unsigned(os.fspath(scene)).rstrip("/"))
    stem, ending = os.path.splitext(base)
    return stem if ending.lower() in (".tif", ".tiff", ".jp2") else base


@functools.lru_cache(maxsize=1)
def _encoder(checkpoint: str, which: str | int) -> PretrainedEncoder:
    return load(checkpoint, which)


def _what(job: CatalogueJob, scene: str | SceneFiles, encoder: PretrainedEncoder) -> str:
    """What makes an output what it is, in text: the encoder's weights and statistics, how it is used, the scene's files now."""
    files = fingerprint([File(unsigned(path), path) for path in _paths(job, scene)])
    weights = f"{encoder.fingerprint} {encoder.statistics.digest}"
    used = dataclasses.replace(job, checkpoint=weights, which="", folder="", batch_size=1)
    return repr((used, _unsigned(scene), files))


def _paths(job: CatalogueJob, scene: str | SceneFiles) -> list[str]:
    """The files that say what is in a scene: those of its bands, its quality band, its metadata."""
    if isinstance(scene, str) and not is_remote(scene):
        try:
            scene = find_scene([scene], job.spec.bands, job.spec.sensor)
        except (ValueError, OSError):  # which embedding it says
            return [str(scene)]
    return [scene] if isinstance(scene, str) else paths_of(scene.files, scene.qa, scene.origin)


def _unsigned(scene: str | SceneFiles) -> str | SceneFiles:
    if isinstance(scene, str):
        return unsigned(scene)
    files = {band: (unsigned(path), index) for band, (path, index) in scene.files.items()}
    return dataclasses.replace(scene, files=files, qa=scene.qa and scene.qa._replace(path=unsigned(scene.qa.path)))


def embed_one(job: CatalogueJob, scene: Scene) -> SceneResult:
    """Embed one scene, unless its output is there by the same encoder in the same way.

    An error of the scene's is in the result, others are raised.
    """
    scene = _plain(scene)
    output, record = job.output(scene), f"{job.output(scene)}.json.result"
    there = SceneResult(_name(scene), "", 0, 0, "")
    encoder = _encoder(job.checkpoint, job.which)
    what = _what(job, scene, encoder)
    if os.path.exists(output) and os.path.exists(record):
        with open(record, encoding="utf-8") as file:
            before = json.load(file)
        of = before.pop("what", None)
        there = SceneResult(**before)
        if of == what:
            return there
    try:
        counts = embed_scene(encoder, job.sink(scene), scene, spec=job.spec, **job.options)
    except (ValueError, OSError) as error:
        return there._replace(error=str(error).partition("\n")[0])
    result = SceneResult(_name(scene), output, counts["patches"], counts["embedded"], "")
    with atomic_open(record) as file:
        json.dump(result._asdict() | {"what": what}, file)
    return result


def embed_scenes(
    job: CatalogueJob,
    scenes: Scene | Iterable[Scene],
    *,
    beam_options: Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[SceneResult]:
    """Embed scenes, each to a file of its own, and write `scenes.csv` beside them; scenes that fail are listed, not fatal.

    The same call goes on where an earlier one was interrupted: scenes whose files are there are not embedded again, and those
    that failed are tried again. A file that is there by another encoder, pool or option, or of a scene that has changed since,
    is not taken for what was asked for: that scene fails, and says that the file is there. `scenes.csv` keeps such files, and
    those of scenes of earlier calls.

    Args:
        scenes: paths or addresses, or what a catalogue says (`geomoe.data.stac.read_items`); one or several.
        beam_options: of Apache Beam's pipeline, as ("--runner=DirectRunner",); None embeds in this process.
        progress: called with the scenes done and that of all, in this process.

    Raises:
        ValueError: two scenes have one name, or there is none.
        ImportError: Beam is asked for and not installed.
    """
    scenes = [scenes] if isinstance(scenes, str | os.PathLike | SceneFiles) else list(scenes)
    names = collections.Counter(map(_name, scenes))
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"two scenes are named {twice[0]}, and would have one output; rename one, or take two folders")
    if not scenes:
        raise ValueError("there is no scene to embed")
    os.makedirs(job.folder, exist_ok=True)
    if beam_options is None:
        results = []
        for scene in scenes:
            results.append(embed_one(job, scene))
            progress(len(results), len(scenes))
    else:
        results = _by_beam(job, scenes, beam_options)
    again = {result.scene for result in results}
    earlier = read_results(job.folder) if is_catalogue(job.folder) else []
    kept = [row for row in earlier if row.scene not in again and row.output and os.path.exists(row.output)]
    write_results(job.folder, [*kept, *results])
    return results


def _by_beam(job: CatalogueJob, scenes: Sequence[Scene], beam_options: Sequence[str]) -> list[SceneResult]:
    path = os.path.join(job.folder, ".results")
    beam.run(list(enumerate(scenes)), functools.partial(_line, job), beam_options, path)
    with open(path, encoding="utf-8") as file:
        rows = sorted(json.loads(line) for line in file)
    os.remove(path)
    return [SceneResult(*row[1:]) for row in rows]


def _line(job: CatalogueJob, item: tuple[int, Scene]) -> str:
    return json.dumps([item[0], *embed_one(job, item[1])])
