"""Which of a run's modalities a scan is, by the banks; or that it is none.

For each modality a sample of the scan's windows goes through the network with
that modality's rows of the banks (`models/fit.py`). How far training and
validation scans of the modality itself are from them was kept by the run
(`fit.json`): a scan is taken for the modality whose usual gap it exceeds least,
and for none of them where it exceeds it by more than any of those scans did,
or is less like the prototypes.
"""

from collections.abc import Iterable, Mapping
import functools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from data import preprocess
from data.volume_io import Volume
from dbdc_jax.deployed import Deployed, Network
from dbdc_jax.evaluation import sliding_window
from dbdc_jax.segmentation import Segmenter

FILE = 'fit.json'
_WINDOWS = 32
# Beyond the run's own scans: as a factor of the gap, and below the similarity.
_GAP_SLACK = 1.25
_SIMILARITY_SLACK = 0.1


class Fit(NamedTuple):
  """What a scan was taken for.

  Attributes:
    modality: its name; None if no modality fits.
    confidence: in [0, 1], of the best one, none being an alternative.
    gaps: modality -> gap in units of its own scans' median gap.
    similarities: modality -> cosine to its prototypes (None without a bank).
  """

  modality: str | None
  confidence: float
  gaps: dict[str, float]
  similarities: dict[str, float | None]

  def __str__(self) -> str:
    """A sentence for people."""
    best = min(self.gaps, key=self.gaps.__getitem__)
    found = ', '.join(f'{name} {gap:.1f}' for name, gap in self.gaps.items())
    name = self.modality or f'no modality (the nearest is {best})'
    return f'{name}, confidence {self.confidence:.2f} (gaps {found})'


def sample(images: np.ndarray, patch: int) -> np.ndarray:
  """Windows spread over a scan: `[32, patch, patch]`.

  Args:
    images: `[S, H, W]`; H and W at least `patch`.
    patch: side of a window.
  """
  count, height, width = images.shape
  corners = [
    (r, c)
    for r in sliding_window.window_starts(height, patch, patch // 2)
    for c in sliding_window.window_starts(width, patch, patch // 2)
  ]
  slices = np.linspace(0, count - 1, _WINDOWS).round().astype(int)
  # A step that shares no factor with their number visits all of them.
  step = next(s for s in (5, 7, 1) if np.gcd(s, len(corners)) == 1)
  windows = []
  for i, index in enumerate(slices):
    r, c = corners[i * step % len(corners)]
    windows.append(images[index, r : r + patch, c : c + patch])
  return np.stack(windows).astype(np.float32)


@functools.partial(jax.jit, static_argnames=('fit',))
def _fit(fit, params, memory, windows, modality):
  return fit(params, memory, windows[..., None], modality)


def measure(
  network: Network, windows: np.ndarray
) -> tuple[float, float | None]:
  """Gap and prototype similarity of a scan's windows."""
  ids = np.full(len(windows), network.index, np.int32)
  gap, similarity = _fit(
    network.method.fit, network.params, network.memory, windows, ids
  )
  similarity = float(similarity)
  return float(gap), None if np.isnan(similarity) else similarity


def _limits(known: Mapping[str, Any]) -> tuple[float, float, float | None]:
  """Median gap, largest gap in its units, least similarity: of known scans."""
  gaps = np.array(known['gap'])
  median = float(np.median(gaps))
  similar = [s for s in known['similarity'] if s is not None]
  least = min(similar) - _SIMILARITY_SLACK if similar else None
  return median, _GAP_SLACK * float(gaps.max()) / median, least


def _windows(
  segmenter: Segmenter, run: Deployed, volume: Volume, name: str
) -> np.ndarray:
  """The scan's windows as that modality's preparation would give them."""
  modality = run.modality(name)
  region, mm = segmenter.region(volume.voxels, volume.affine, run, name)
  patch = run.config.augment.patch_size
  geometry, canvas = preprocess.region_geometry(
    region.image.shape, region.spacing, mm, patch
  )
  slices = np.linspace(0, len(region.image) - 1, _WINDOWS).round().astype(int)
  low, high = preprocess.limits(region.image, modality.intensity)
  images = preprocess.resample(
    preprocess.between(region.image[slices], low, high),
    geometry,
    canvas,
    order=1,
  )
  return sample(images, patch)


def recognize(segmenter: Segmenter, volume: Volume) -> Fit:
  """Says which modality of the segmenter's (first) run a scan is.

  Args:
    segmenter: its first run is asked.
    volume: the scan.

  Raises:
    ValueError: the run has not kept how its own scans fit.
  """
  run = segmenter.runs[0]
  known = {m.name: load(run.folder, m.name) for m in run.modalities}
  gaps, similarities, limits = {}, {}, {}
  for modality in run.modalities:
    name = modality.name
    windows = _windows(segmenter, run, volume, name)
    gap, similarities[name] = measure(run.networks[name], windows)
    median, *limits[name] = _limits(known[name])
    gaps[name] = gap / median
  best = min(gaps, key=gaps.__getitem__)
  furthest, least = limits[best]
  fits = gaps[best] <= furthest
  if least is not None:
    fits = fits and similarities[best] >= least
  # Each modality weighs as the inverse square of its gap, 'none' as the limit.
  weights = {name: gap**-2 for name, gap in gaps.items()}
  share = weights[best] / (sum(weights.values()) + furthest**-2)
  return Fit(best if fits else None, float(share), gaps, similarities)


def load(folder: pathlib.Path, modality: str) -> dict[str, Any]:
  """How a run's own scans of a modality fit it.

  Args:
    folder: the run's workdir, which may hold a folder per modality.
    modality: its name.

  Raises:
    ValueError: it is not there, or not readable.
  """
  path = folder / FILE
  if not path.exists():
    path = folder / modality / FILE
  try:
    return json.loads(path.read_text())[modality]
  except (OSError, ValueError, KeyError) as error:
    raise ValueError(
      f'{path}: not readable ({error}): --modality auto needs it; run'
      ' the training command again with --config.eval_only=true, or name the'
      ' modality'
    ) from error


def calibrate(
  network: Network, scans: Iterable[np.ndarray], patch: int
) -> dict[str, Any]:
  """Measures how a run's own scans fit: what `fit.json` holds of a modality.

  Args:
    network: the modality's.
    scans: `[S, H, W]` uint16 prepared slices of scans that it is not tested
      on.
    patch: side of a window.
  """
  found = [measure(network, sample(s, patch) / 65535.0) for s in scans]
  return {
    'gap': [gap for gap, _ in found],
    'similarity': [similarity for _, similarity in found],
  }
