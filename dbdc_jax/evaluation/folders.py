"""Two folders of label maps to scores."""

import contextlib
import functools
import os
import pathlib
from typing import Any, NamedTuple

from data.files import progress
from data.formats.scan_error import ScanError
from dbdc_jax.evaluation import (
  case_pool,
  case_scores,
  evaluation_files,
  label_codes,
  matching,
  summary,
)


class Scores(NamedTuple):
  """What scoring found.

  Attributes:
    results: every number with its definition, unit and rule for empty masks:
      the content of `evaluation.json`.
    missing: a finding for each label map without its partner.
    problems: a finding for each case or class that could not be scored.
  """

  results: dict[str, Any]
  missing: list[ScanError]
  problems: list[ScanError]


def score(
  prediction: str | os.PathLike[str],
  reference: str | os.PathLike[str],
  output: str | os.PathLike[str] | None = None,
  *,
  classes: str = '',
  tolerance: float | None = None,
  workers: int = 1,
  quiet: bool = False,
) -> Scores:
  """Scores label maps against references, matched by name.

  Args:
    prediction: folder of label maps: NIfTI, MetaImage, NRRD or DICOM.
    reference: folder of label maps.
    output: folder to write `evaluation.json` and `.csv` into; none: nothing is
      written. Results of an earlier evaluation are replaced.
    classes: '1=liver,2=kidney', or a JSON file (a dataset.json, a run's
      task.json); by default every code above 0 but 255 of the references.
    tolerance: of the NSD, mm; by default each case's largest voxel side.
    workers: processes. More than one start the calling program anew, as
      `multiprocessing` does: call this below `if __name__ == '__main__':`.
    quiet: no progress bar.

  Raises:
    ScanError: a folder holds no label map.
    ValueError: bad `classes`, or an `output` that cannot be written.
    OSError: the disk took no more.
  """
  codes = label_codes.parse(classes)
  place = pathlib.Path(output) if output is not None else None
  found = matching.find(prediction, reference, place or '')
  if place is not None:
    evaluation_files.check(place)
  one = functools.partial(case_scores.score, classes=codes, tolerance=tolerance)
  total = len(found.cases)
  with progress.bar(quiet) as bar:
    scored = case_pool.run(one, found.cases, workers, case_scores.too_large)
    with contextlib.closing(scored):
      of_case = dict(bar.track(scored, total, description='scoring cases'))
  outcomes = [of_case[index] for index in range(total)]
  info = {'prediction': str(prediction), 'reference': str(reference)}
  results = summary.summarize(found, outcomes, codes, tolerance, info)
  if place is not None:
    evaluation_files.write(results, place)
  problems = summary.problems(found, outcomes)
  problems += summary.nothing_scored(results)
  return Scores(results, found.missing, problems)
