"""A run's scans as files for nnU-Net, and its data sets of them.

Files hold what the run's own test is scored on: the scan's own voxels, turned
to the run's slices (`data/preprocessing/planes.py`) and cropped to its region
of interest. So all modalities lie alike, and a label map is on the grid of the
run's `native` scores. nnU-Net reads the slices as first axis.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from data.cache.prepared import PreparedCase
from data.files import names, progress
from data.formats.nifti import write_nifti
from data.readers import find_cases
from data.task import Modality
from dbdc_jax import methods
from dbdc_jax.reporting.runs import Data, FinishedRun
from dbdc_jax.training import scans

ENDING = '.nii.gz'
_CHANNEL = '_0000' + ENDING


class Files(NamedTuple):
  """The files of a run's scans.

  Attributes:
    folder: holds `images` and `labels`.
    cases: modality -> part of the split -> scans.
    modalities: by name, cut as the run has cut them.
    classes: of the task, background first.
  """

  folder: pathlib.Path
  cases: Mapping[str, Mapping[str, Sequence[PreparedCase]]]
  modalities: Mapping[str, Modality]
  classes: Sequence[str]

  def image(self, case: PreparedCase) -> pathlib.Path:
    """The file of a scan's image."""
    return self.folder / 'images' / names.on_disk(case.name, _CHANNEL)

  def label(self, case: PreparedCase) -> pathlib.Path:
    """The file of a scan's reference; unlabelled scans have none."""
    return self.folder / 'labels' / file_name(case)

  def of(self, modalities: Sequence[str], part: str) -> list[PreparedCase]:
    """The scans of a part of the split, of some modalities."""
    return [case for name in modalities for case in self.cases[name][part]]

  def labels(self, modality: str) -> dict[str, int]:
    """Class -> code of a modality's label maps: 0, 1, 2, ...

    nnU-Net allows no gap, so classes that the modality has not are left out.
    """
    known = {0, *self.modalities[modality].codes.values()}
    named = [name for k, name in enumerate(self.classes) if k in known]
    return {name: code for code, name in enumerate(named)}


def file_name(case: PreparedCase) -> str:
  """The name of a scan's label map."""
  return names.on_disk(case.name, ENDING)


def find(run: FinishedRun, data: Data, folder: pathlib.Path) -> Files:
  """Where the files of a run's scans are, or will be.

  Raises:
    ValueError: a modality has no labelled training scan.
  """
  problem = methods.resolve(run.config)
  task = problem.task.with_planes(data.prepared.planes)
  by_name = {case.name: case for case in data.prepared.cases}
  cases = {
    modality: {p: [by_name[n] for n in found] for p, found in parts.items()}
    for modality, parts in data.split.items()
  }
  for modality, parts in cases.items():
    if not parts['labeled']:
      raise ValueError(
        f'{run.workdir}: {modality} has no labelled training scan: nnU-Net'
        ' needs some; give a run of another method'
      )
  chosen = {m.name: m for m in task.select(problem.config.modalities)}
  return Files(folder, cases, chosen, task.classes)


def affine(geometry: Mapping[str, Any]) -> np.ndarray:
  """Where the voxels `[columns, rows, slices]` of a region lie, RAS mm.

  Args:
    geometry: of the prepared scan.
  """
  turned = nib.orientations.inv_ornt_aff(
    np.array(geometry['orientation']), geometry['original_shape']
  )
  cropped = np.eye(4)
  cropped[:3, 3] = [start for start, _ in geometry['box']]
  whole = np.array(geometry['affine']) @ turned @ cropped
  return whole[:, [2, 1, 0, 3]]


def _image(voxels: np.ndarray, geometry: Mapping[str, Any]) -> np.ndarray:
  """A scan's region, `[columns, rows, slices]`, its values as they are."""
  turned = nib.orientations.apply_orientation(
    voxels, np.array(geometry['orientation'])
  )
  region = turned[tuple(slice(*part) for part in geometry['box'])].T
  small = region.astype(np.int16)
  return small if np.array_equal(small, region) else region


def write(
  run: FinishedRun, data: Data, files: Files, parts: Sequence[str]
) -> None:
  """Writes the files of some parts of the split; those that are there stay.

  The labels of unlabelled scans are not written.

  Raises:
    ValueError: scans are gone, or label maps leave something open; lists them.
    ScanError: a scan cannot be read.
    OSError: the disk took no more.
  """
  problem = methods.resolve(run.config)
  wanted = {
    (case.modality, case.name): (case, part)
    for modality in files.cases
    for part in parts
    for case in files.cases[modality][part]
    if not files.image(case).exists()
  }
  if not wanted:
    return
  partly = [name for (_, name), (c, _) in wanted.items() if c.partly_drawn]
  if partly:
    raise ValueError(
      f'{run.workdir}: the label maps of {names.listed(sorted(partly))} leave'
      ' something open, which is not converted: compare on scans that are'
      ' drawn for everything'
    )
  for folder in ('images', 'labels'):
    (files.folder / folder).mkdir(parents=True, exist_ok=True)
  config = run.config.data
  found = find_cases.look(
    list(files.modalities.values()),
    scans.folders(problem),
    config.extra_unlabeled,
  )
  with progress.bar() as bar:
    sources = [c for c in found.cases if (c.modality, c.name) in wanted]
    gone = wanted.keys() - {(c.modality, c.name) for c in sources}
    if gone:
      listed = ', '.join(' '.join(scan) for scan in sorted(gone))
      raise ValueError(
        f'{run.workdir}: its scans are no longer where it found them: {listed};'
        ' bring them back'
      )
    for source in bar.track(sources, description='writing scans'):
      case, part = wanted[source.modality, source.name]
      where = affine(case.geometry)
      if part != 'unlabeled':
        codes = files.labels(case.modality).values()
        known = sorted({0, *files.modalities[case.modality].codes.values()})
        table = np.zeros(len(files.classes), np.uint8)
        table[known] = list(codes)
        label = table[data.prepared.native_labels(case)]
        write_nifti(files.label(case), label.T, where)
      # Last: an image that is there has its label.
      voxels = _image(source.read().image, case.geometry)
      write_nifti(files.image(case), voxels, where)


def dataset(
  files: Files,
  modalities: Sequence[str],
  pseudo: Mapping[str, pathlib.Path],
) -> dict[str, Any]:
  """nnU-Net's dataset.json of a network's training and validation scans.

  Args:
    files: of the run.
    modalities: that the network takes. Several share its one channel and get
      z-scores; CT alone is normalised in nnU-Net's way for CT.
    pseudo: unlabelled scan -> the label map that it is trained with.

  Raises:
    ValueError: the modalities have not the same classes.
  """
  labels = files.labels(modalities[0])
  for other in modalities[1:]:
    if files.labels(other) != labels:
      raise ValueError(
        f'{modalities[0]} and {other} are not labelled with the same classes:'
        ' one nnU-Net for both would learn that organs are background; choose'
        ' --recipe separate or pseudo'
      )
  known = {
    case.name: (case, files.label(case))
    for part in ('labeled', 'validation')
    for case in files.of(modalities, part)
  }
  for case in files.of(modalities, 'unlabeled'):
    if case.name in pseudo:
      known[case.name] = case, pseudo[case.name]
  (first, *others) = (files.modalities[name] for name in modalities)
  ct = first.name == 'ct' or first.intensity.window is not None
  return {
    'channel_names': {'0': 'CT' if ct and not others else 'zscore'},
    'labels': labels,
    'numTraining': len(known),
    'file_ending': ENDING,
    'overwrite_image_reader_writer': 'NibabelIO',
    'dataset': {
      file_name(case).removesuffix(ENDING): {
        'images': [str(files.image(case))],
        'label': str(label),
      }
      for case, label in known.values()
    },
  }
