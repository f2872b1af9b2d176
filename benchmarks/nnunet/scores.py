"""nnU-Net's label maps to scores, as a run's own test has them."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.nnunet.convert import Files, file_name
from data.cache.prepared import Prepared, PreparedCase
from dbdc_jax.evaluation import components, scoring


def _classes(
  files: Files, case: PreparedCase, folder: pathlib.Path
) -> np.ndarray:
  """A scan's label map, `[S, h, w]` uint8 classes of the task."""
  codes = np.asarray(nib.load(folder / file_name(case)).dataobj).T
  named = [files.classes.index(name) for name in files.labels(case.modality)]
  return np.array(named, np.uint8)[codes.astype(int)]


def choose(
  files: Files,
  prepared: Prepared,
  cases: Sequence[PreparedCase],
  folder: pathlib.Path,
) -> dict[str, components.Choice]:
  """Has validation scans choose whose largest component alone is kept.

  Args:
    files: of the run.
    prepared: the run's data.
    cases: the validation scans of a network.
    folder: of its label maps of them.

  Returns:
    Modality -> its choice.
  """
  out: dict[str, components.Choice] = {}
  for name in dict.fromkeys(case.modality for case in cases):
    named = [files.classes.index(label) for label in files.labels(name)]
    chooser = components.Chooser(files.classes, named)
    for case in cases:
      if case.modality == name:
        found = _classes(files, case, folder)
        chooser.add(found, prepared.native_labels(case), named)
    out[name] = chooser.choice()
  return out


def score(
  files: Files,
  prepared: Prepared,
  cases: Sequence[PreparedCase],
  folder: pathlib.Path,
  chosen: Mapping[str, components.Choice],
  way: str,
) -> list[dict[str, Any]]:
  """The scores of scans as `results.json` has them, both ways.

  Args:
    files: of the run.
    prepared: the run's data.
    cases: the scans.
    folder: of a network's label maps of them.
    chosen: of `choose`.
    way: one of `components.WAYS`: that of `native`; the other is `beside`.
  """
  out = []
  for case in cases:
    found = _classes(files, case, folder)
    kept = components.kept(chosen[case.modality], files.classes)
    both = [found, components.largest(found, kept)]
    both = both if way == components.NONE else both[::-1]
    reference = prepared.native_labels(case)
    grids = [
      {
        'native': scoring.only(
          files.labels(case.modality),
          scoring.score(
            one, reference, case.spacing, files.classes, scoring.NATIVE
          ),
        ),
        # nnU-Net knows no prepared grid.
        'prepared': {},
      }
      for one in both
    ]
    facts = {'case': case.name, 'patient': case.patient}
    facts['modality'] = case.modality
    out.append({**facts, **grids[0], 'beside': grids[1]})
  return out
