"""Apache Beam, where work is spread over machines: the one place that opens its pipelines."""

from collections.abc import Callable, Sequence
from typing import Any


def run(items: Sequence[Any], work: Callable[[Any], Any], options: Sequence[str], output: str | None = None) -> None:
    """Do `work` on every item by Beam's workers, in any order.

    Args:
        items: picklable.
        work: picklable, as a function of a module is; where there is an output, it gives a line of text.
        options: of Beam's pipeline, as ("--runner=DirectRunner",).
        output: a file for the lines; None throws the results away.

    Raises:
        ImportError: Beam is not installed.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ImportError("work on many machines needs Apache Beam: pip install 'geomoe[beam]'") from error
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        results = pipeline | beam.Create(list(items)) | beam.Reshuffle() | beam.Map(work)
        if output is not None:
            results | beam.io.WriteToText(output, num_shards=1, shard_name_template="")
