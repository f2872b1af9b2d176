"""Pictures of a run: training curves and overlays of test slices."""

from collections.abc import Mapping, Sequence
import io
import itertools
import os
import pathlib
from typing import Any
import warnings

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
import numpy as np

from data.files import atomic

# Distinct for colour-blind readers as well (after Okabe and Ito), on grey.
COLOURS = (
  '#e69f00', '#56b4e9', '#009e73', '#f0e442', '#d55e00', '#cc79a7', '#0072b2',
  '#ffffff',
)  # fmt: skip

# Letters of a title or a class name that a figure has room for.
_LONGEST = 60

# Loss terms that are drawn, in words; no method has more than five of them.
_MAIN_TERMS = {
  'sup_ce': 'labels: cross entropy',
  'sup_edl': 'labels: evidence',
  'sup_dice': 'labels: Dice',
  'ipc_ce': 'consistency of images',
  'fpc_ce': 'consistency of features',
  'consistency': 'consistency with the teacher',
  'cross_ce': "the other network's pseudo-labels",
  'cross_edl': "the other network's pseudo-labels (evidence)",
  'cross2_ce': 'pseudo-labels for the second network',
}


def _png(figure: Figure) -> bytes:
  FigureCanvasAgg(figure)
  png = io.BytesIO()
  with warnings.catch_warnings():
    # A letter that the font lacks becomes a box.
    warnings.filterwarnings('ignore', 'Glyph .* missing', UserWarning)
    figure.savefig(png, format='png', dpi=120)
  return png.getvalue()


def _plain(name: str) -> str:
  """A name as a label of a figure, where $ would begin a formula."""
  shown = name if len(name) <= _LONGEST else name[: _LONGEST - 3] + '...'
  return shown.replace('$', r'\$')


def save(png: bytes, path: str | os.PathLike) -> None:
  """Writes a PNG that is whole or not there."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  atomic.write(path, png)


def _series(rows, *names, scale=1):
  """Epochs, and the sums of what is named, of the rows that have a value."""
  found = [(row['epoch'], [row.get(name) for name in names]) for row in rows]
  found = [(e, scale * sum(v)) for e, v in found if None not in v]
  return [e for e, _ in found], [v for _, v in found]


def progress(
  rows: Sequence[Mapping[str, Any]],
  path: str | os.PathLike,
  modalities: Sequence[str],
) -> None:
  """Losses, DSC and, where they move, modality weights over the epochs.

  The epoch of the best validation DSC, whose checkpoint is tested, is marked.

  Args:
    rows: epoch rows of metrics.jsonl.
    path: the PNG file.
    modalities: names, in bank order.
  """
  weighted = any(row.get(f'weight/{modalities[0]}', 1) != 1 for row in rows)
  count = 3 if weighted else 2
  figure = Figure(figsize=(4.4 * count, 5), layout='constrained')
  left, middle, *others = figure.subplots(1, count)
  left.plot(*_series(rows, 'loss'), color='black', label='total')
  colours = iter(COLOURS)
  for name, words in _MAIN_TERMS.items():
    series = _series(rows, *(f'{name}/{m}' for m in modalities))
    # The axis is logarithmic.
    points = [(e, v) for e, v in zip(*series, strict=True) if v > 0]
    if points:
      epochs, summed = zip(*points, strict=True)
      left.plot(epochs, summed, color=next(colours), label=words)
  if any(row.get('loss') for row in rows):
    left.set_yscale('log')
  left.set_title('losses (sum over modalities)')
  for index, name in enumerate(modalities):
    colour = COLOURS[(2 * index + 4) % 7]
    validation = _series(rows, f'validation_dice/{name}', scale=100)
    training = _series(rows, f'train_dice/{name}', scale=100)
    label = _plain(name)
    middle.plot(*validation, '.-', color=colour, label=f'{label}, validation')
    middle.plot(*training, ':', color=colour, label=f'{label}, training')
    for right in others:
      weights = _series(rows, f'weight/{name}')
      right.plot(*weights, color=colour, label=label)
      right.set_title('modality weight')
  middle.set_title('DSC (%)')
  middle.set_ylim(0, 100)
  scored = dict(zip(*_series(rows, 'validation_dice_mean'), strict=True))
  for axes in (left, middle, *others):
    if scored:
      best = max(scored, key=lambda epoch: scored[epoch])
      axes.axvline(best, color='grey', ls='--', lw=1, label=f'best: {best}')
    axes.set_xlabel('epoch')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    # Below: no curve lies behind it.
    axes.legend(
      fontsize=8, ncols=2, loc='upper center', bbox_to_anchor=(0.5, -0.12)
    )
  save(_png(figure), path)


def choose_slices(reference: np.ndarray, count: int) -> list[int]:
  """Slices with most foreground, one in each of `count` parts of the volume.

  Args:
    reference: `[S, h, w]` class indices.
    count: how many.
  """
  area = (reference > 0).sum((1, 2))
  parts = np.array_split(np.arange(len(area)), min(count, len(area)))
  return [int(part[np.argmax(area[part])]) for part in parts]


def _fill(axes, label, num_classes, aspect):
  """A translucent fill and an outline for every class."""
  for index in range(1, num_classes):
    mask = label == index
    if not mask.any():
      continue
    colour = COLOURS[(index - 1) % len(COLOURS)]
    fill = np.zeros((*mask.shape, 4))
    fill[mask] = to_rgba(colour, 0.35)
    axes.imshow(fill, interpolation='nearest', aspect=aspect)
    if 0 < mask.sum() < mask.size and min(mask.shape) > 1:
      axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.0)


def overlay_png(
  image: np.ndarray,
  reference: np.ndarray | None,
  prediction: np.ndarray,
  classes: Sequence[str],
  title: str = '',
  spacing: tuple[float, float] = (1.0, 1.0),
) -> bytes:
  """Image, reference and prediction side by side, with a legend.

  Args:
    image: `[h, w]` in [0, 1].
    reference: `[h, w]` class indices, or None.
    prediction: `[h, w]` class indices.
    classes: names, background first.
    title: above the pictures.
    spacing: (row, column) pixel sides in mm.
  """
  panels = {'image': None, 'reference': reference, 'prediction': prediction}
  if reference is None:
    del panels['reference']
  aspect = spacing[0] / spacing[1]
  shape = image.shape[0] * aspect / image.shape[1]
  width = 3.4 * len(panels)
  figure = Figure(figsize=(width, 3.4 * shape + 1.0), layout='constrained')
  figure.suptitle(_plain(title), fontsize=11)
  subplots = figure.subplots(1, len(panels))
  for axes, (name, label) in zip(subplots, panels.items(), strict=True):
    axes.imshow(image, cmap='gray', vmin=0, vmax=1, aspect=aspect)
    if label is not None:
      _fill(axes, label, len(classes), aspect)
    axes.set_title(name, fontsize=10)
    axes.set_axis_off()
  colours = itertools.cycle(COLOURS)
  handles = [
    Patch(facecolor=colour, edgecolor='black', label=_plain(name))
    for name, colour in zip(classes[1:], colours, strict=False)
  ]
  figure.legend(
    handles=handles, loc='outside lower center', ncols=4, fontsize=8
  )
  return _png(figure)
