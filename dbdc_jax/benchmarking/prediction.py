"""How long it takes to segment one volume, and what of it takes how long."""

from collections.abc import Iterator
import contextlib
import gzip
import pathlib
import tempfile
import time
from typing import Any

import jax
import nibabel as nib
import numpy as np

from data.files import atomic
from data.formats import nifti
from data.preprocessing import preprocess
from data.task import HEART
from dbdc_jax import methods
from dbdc_jax.benchmarking import scores, waiting
from dbdc_jax.benchmarking.workload import Workload
from dbdc_jax.inference import segmentation, sliding_window, trained_run
from dbdc_jax.runtime import parallel

_SPACING = (1.0, 1.0, 1.0)
# As many pixels as a scan's longer side has voxels.
_MM = 1.0


def _run(workload: Workload) -> trained_run.TrainedRun:
  """A run on the heart's whole slices whose weights are as they start."""
  config = waiting.config(workload)
  config.modalities = 'ct'
  config.data.roi = 'none'
  method = methods.build(config)
  params, memory = parallel.run_once(method.init, jax.random.key(0))
  return trained_run.TrainedRun(
    folder=pathlib.Path('benchmark'),
    config=config,
    task=HEART,
    modalities=HEART.select('ct'),
    mm_per_pixel={'ct': _MM},
    networks={'ct': trained_run.TrainedNetwork(method, params, memory, 0)},
  )


def _network_only(
  run: trained_run.TrainedRun, shape: tuple[int, int, int]
) -> None:
  """The network's share: the same windows, cut and put together."""
  network, patch = run.networks['ct'], run.config.augment.patch_size
  _, canvas = preprocess.region_geometry(shape, _SPACING, _MM, patch)
  images = np.zeros((segmentation.SLAB, *canvas), np.float32)
  for first in range(0, shape[0], segmentation.SLAB):
    sliding_window.of_any_size(
      network.predict,
      images[: shape[0] - first],
      network.place,
      patch=patch,
      stride=patch // 2,
      batch=segmentation.WINDOWS,
    )


def measure(
  workload: Workload,
  shape: tuple[int, int, int] = scores.SHAPE,
  repeats: int = 3,
) -> dict[str, Any]:
  """Segments a volume from file to file.

  Args:
    workload: method, width, patch and dtype.
    shape: of the volume, voxels of 1 mm.
    repeats: of which the medians are taken; compilation is before them.

  Returns:
    Seconds: 'read', 'resample' (and all else of the way there and back),
    'network' (windows cut and averaged included), 'write', 'total'.
  """
  run = _run(workload)
  segmenter = segmentation.Segmenter([run])
  voxels = (60 * scores.heart(shape)).astype(np.int16)
  found: dict[str, list[float]] = {}

  @contextlib.contextmanager
  def timed(name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    found.setdefault(name, []).append(time.perf_counter() - start)

  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'scan.nii.gz'
    image = nib.Nifti1Image(voxels, np.diag([*_SPACING, 1.0]))
    path.write_bytes(gzip.compress(image.to_bytes(), 6))
    _network_only(run, (1, *shape[:2]))  # Compiles.
    for _ in range(repeats):
      with timed('read'):
        volume = nifti.read_nifti(path)
      affine = volume.affine
      with timed('segment'):
        out = segmenter.segment(volume.voxels, 'ct', affine=affine)
      with timed('write'):
        labels = nifti.nifti_bytes(out.labels, volume)
        atomic.write(path.with_name('out.nii.gz'), labels)
      slices = preprocess.reorient(voxels, affine, 'axial').shape
      with timed('network'):
        _network_only(run, slices)
  medians = {name: float(np.median(times)) for name, times in found.items()}
  whole = medians.pop('segment')
  return {
    'shape': list(shape),
    **medians,
    'resample': whole - medians['network'],
    'total': medians['read'] + whole + medians['write'],
  }
