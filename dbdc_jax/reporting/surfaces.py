"""Organs as shaded surfaces, seen from outside."""

from collections.abc import Sequence
from typing import Any

from matplotlib.colors import to_rgba_array
import nibabel as nib
import numpy as np
from scipy import ndimage

# Light comes from above the viewer's left shoulder: (up, away, right).
_LIGHT = np.array([0.5, -0.8, -0.35]) / np.linalg.norm([0.5, 0.8, 0.35])
_AMBIENT = 0.35
# Voxel steps are smoothed away for the shading only, in mm.
_SMOOTH = 2.0
# Side of a picture.
_PIXELS = 200


# Where slices, rows and columns run to in what is rendered.
_STANDING = ('S', 'P', 'L')


def upright(
  label: np.ndarray, geometry: dict[str, Any]
) -> tuple[np.ndarray, tuple[float, float, float]]:
  """Labels of slices of any plane as `render` wants them.

  Args:
    label: `[S, h, w]` class indices on a scan's own grid.
    geometry: of the prepared scan, see `data.preprocessing.preprocess`.

  Returns:
    The same voxels with the axes that are nearest to feet-head, front-back and
    right-left in this order, and their sides in mm.
  """
  # For each axis on disk, which axis of a slice it is and whether it is turned.
  target, turned = np.array(geometry['orientation']).T
  affine = np.eye(4)
  affine[:3, target.astype(int)] = np.array(geometry['affine'])[:3, :3] * turned
  way = nib.orientations.ornt_transform(
    nib.orientations.io_orientation(affine),
    nib.orientations.axcodes2ornt(_STANDING),
  )
  sides = np.empty(3)
  sides[way[:, 0].astype(int)] = geometry['spacing']
  up, back, left = sides.tolist()
  return nib.orientations.apply_orientation(label, way), (up, back, left)


def _turned(degrees, up, away, right):
  """Where the viewer's axes lead along slices, rows and columns."""
  cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  return up, cosine * away + sine * right, cosine * right - sine * away


def _rays(shape, spacing, turn):
  """Voxels that the rays pass, by axis; -1 where they are outside.

  The picture's rows run from head to feet, its columns from the patient's
  right to the left, its depth from front to back, all turned about the axis
  from feet to head: a row of the picture is one slice.

  Returns:
    Slices `[200]`, rows and columns `[200, depth]`.
  """
  size = np.array(shape) * spacing
  reach = max(size[0], np.hypot(size[1], size[2])) / 2
  depth = min(int(2 * reach / min(spacing)) + 1, 2 * _PIXELS)
  up = np.linspace(reach, -reach, _PIXELS)
  across = np.linspace(-reach, reach, _PIXELS)[:, None]
  along = np.linspace(-reach, reach, depth)
  out = []
  positions = _turned(turn, up, along, across)
  for position, side, count in zip(positions, spacing, shape, strict=True):
    index = np.rint(position / side + (count - 1) / 2).astype(int)
    out.append(np.where((index >= 0) & (index < count), index, -1))
  return out


def _normals(label, classes, at, spacing):
  """`[n, 3]` outward unit normals of the smoothed masks at voxels `at`."""
  out = np.zeros((len(at), 3))
  found = label[tuple(at.T)]
  sigma = [_SMOOTH / side for side in spacing]
  for index in classes:
    here = found == index
    if not here.any():
      continue
    smooth = ndimage.gaussian_filter((label == index).astype(np.float32), sigma)
    slopes = np.gradient(smooth, *spacing)
    place = tuple(at[here].T)
    out[here] = -np.stack([slope[place] for slope in slopes], -1)
  return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


def render(
  label: np.ndarray,
  spacing: tuple[float, float, float],
  colours: Sequence[str],
  *,
  turn: float = 0.0,
) -> np.ndarray:
  """A picture of all classes' surfaces in parallel projection.

  Args:
    label: `[S, h, w]` class indices; slices from feet to head, rows from front
      to back, columns from the patient's right to the left.
    spacing: (slice, row, column), mm.
    colours: '#rrggbb' of each foreground class, repeated where too few.
    turn: degrees that the viewer walks around the patient.

  Returns:
    `[200, 200, 4]` uint8, transparent where nothing is.
  """
  picture = np.zeros((_PIXELS, _PIXELS, 4), np.uint8)
  if not label.any():
    return picture
  # The part that holds foreground, with a voxel around it.
  (box,) = ndimage.find_objects((label > 0).astype(np.uint8))
  label = np.pad(label[box], 1)
  sides = np.asarray(spacing, float)
  slices, rows, columns = _rays(label.shape, sides, turn)
  # The margin is background, at index -1 too.
  hit = label[slices][:, rows, columns] > 0
  seen = hit.any(-1)
  first = np.argmax(hit, -1)[seen]
  row, column = np.nonzero(seen)
  at = np.stack([slices[row], rows[column, first], columns[column, first]], -1)
  classes = np.unique(label[label > 0])
  normals = _normals(label, classes, at, sides)
  light = np.array(_turned(turn, *_LIGHT))  # It turns with the viewer.
  shade = _AMBIENT + (1 - _AMBIENT) * np.clip(normals @ light, 0, 1)
  rgb = np.rint(255 * to_rgba_array(colours)[:, :3])
  colour = rgb[(label[tuple(at.T)].astype(int) - 1) % len(rgb)]
  picture[seen, :3] = np.clip(shade[:, None] * colour, 0, 255)
  picture[seen, 3] = 255
  return picture
