import numpy as np
from PIL import Image
import pytest

from dbdc_jax.evaluation import pictures

CLASSES = ('background', 'liver', 'spleen')


def _label():
  label = np.zeros((20, 30), np.uint8)
  label[4:12, 3:14] = 1
  label[10:18, 18:27] = 2
  return label


def _colours(path):
  with Image.open(path) as picture:
    return np.asarray(picture.convert('RGB')).reshape(-1, 3).astype(int)


def _has(path, colour):
  rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
  return (np.abs(_colours(path) - rgb).max(1) < 40).sum() > 20


def test_overlay_shows_each_class_in_its_colour(tmp_path):
  path = tmp_path / 'a.png'
  image = np.linspace(0, 1, 600).reshape(20, 30)
  png = pictures.overlay_png(
    image, _label(), _label(), CLASSES, 'case', spacing=(2.0, 1.0)
  )
  pictures.save(png, path)
  assert _has(path, pictures.COLOURS[0]) and _has(path, pictures.COLOURS[1])
  assert [p.name for p in tmp_path.iterdir()] == ['a.png']


def test_overlay_without_reference_is_narrower(tmp_path):
  for name, reference in (('a', _label()), ('b', None)):
    png = pictures.overlay_png(np.zeros((20, 30)), reference, _label(), CLASSES)
    pictures.save(png, tmp_path / f'{name}.png')
  with (
    Image.open(tmp_path / 'a.png') as a,
    Image.open(tmp_path / 'b.png') as b,
  ):
    assert a.width > b.width


@pytest.mark.parametrize(
  'name', ['a$\\frac{$', '$x$ and $y$', '患者 1', 'x' * 250, '\\alpha_1^2']
)
def test_any_name_can_be_a_title_and_a_class(name, tmp_path):
  path = tmp_path / 'a.png'
  classes = ('background', name, 'spleen')
  png = pictures.overlay_png(np.zeros((20, 30)), None, _label(), classes, name)
  pictures.save(png, path)
  assert _has(path, pictures.COLOURS[0])


def test_progress_survives_missing_values(tmp_path):
  rows = [
    {'epoch': 1, 'loss': 2.0, 'sup_ce/ct': 1.0, 'weight/ct': 1.0},
    {'epoch': 2, 'loss': None, 'sup_ce/ct': 0.5, 'validation_dice/ct': 0.4},
  ]
  for index, some in enumerate((rows, rows[:1], [])):
    path = tmp_path / f'{index}.png'
    pictures.progress(some, path, ('ct',))
    assert len(np.unique(_colours(path), axis=0)) > 5


def test_chosen_slices_hold_most_foreground_of_their_part():
  reference = np.zeros((9, 4, 4), np.uint8)
  reference[1, :2], reference[5, :3], reference[8, :1] = 1, 2, 1
  assert pictures.choose_slices(reference, 3) == [1, 5, 8]
  assert pictures.choose_slices(reference, 1) == [5]
  assert len(pictures.choose_slices(reference[:2], 5)) == 2
