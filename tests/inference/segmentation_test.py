import dataclasses

from fake_run import CLASSES, blocks, make, segmenter
from grids import ORIENTATIONS, affine_of
import numpy as np
import pytest
import scipy.spatial

from dbdc_jax.inference import segmentation

SPACING = (1.0, 1.3, 2.5)
CODE_OF = np.array([0, 420, 7])
TURN = scipy.spatial.transform.Rotation.from_rotvec([0.2, -0.1, 0.15])


def _classes(voxels):
  return np.searchsorted([0, 50, 100], voxels).astype(np.uint8)


@pytest.mark.parametrize('codes', ORIENTATIONS)
def test_every_orientation_gives_labels_where_the_structures_are(codes):
  """At a pixel no larger than a voxel, exactly but for the blur of edges."""
  voxels = blocks((20, 22, 18))
  affine = affine_of(codes, SPACING, (5, -3, 2), TURN.as_matrix())
  found = segmenter(make(mm=0.9)).segment(voxels, 'ct', affine=affine)
  reference = _classes(voxels)
  assert found.labels.shape == voxels.shape and found.labels.dtype == np.uint16
  assert set(np.unique(found.labels)) == {0, 420, 7}
  # All of it, and the white part (whose blurred rim is grey).
  for least in (1, 2):
    ours, theirs = (np.argwhere(v >= least) for v in (found.classes, reference))
    gap = np.abs(ours.mean(0) - theirs.mean(0))
    assert gap.max() < 0.5
    np.testing.assert_allclose(len(ours), len(theirs), rtol=0.1)
  np.testing.assert_array_equal(found.labels, CODE_OF[found.classes])


def _slices(segmenter, voxels, spacing=(2, 1, 1)):
  """Of axial slices, cut and turned as a network sees them."""
  return segmenter.segment(voxels, 'ct', spacing=spacing, axes='SPL')


def test_slices_of_named_axes_are_taken_as_they_are():
  voxels = blocks((9, 20, 22))
  plain = _slices(segmenter(), voxels, (2.5, 1, 1))
  np.testing.assert_array_equal(plain.classes, _classes(voxels))


def test_the_size_of_a_scan_compiles_nothing_anew():
  from dbdc_jax.inference import sliding_window

  compiled = sliding_window._window_probabilities
  _slices(segmenter(), blocks((4, 16, 16)))
  before = compiled._cache_size()
  for shape in ((3, 40, 21), (17, 5, 60)):
    _slices(segmenter(), blocks(shape))
  assert compiled._cache_size() == before


def test_mirroring_changes_nothing_for_a_network_that_does_not_mind():
  voxels = blocks((3, 24, 24))
  a, b = (
    _slices(segmenter(mirror=m, entropy=True), voxels) for m in (False, True)
  )
  np.testing.assert_array_equal(a.labels, b.labels)
  np.testing.assert_allclose(a.entropy, b.entropy, atol=1e-6)


def test_several_runs_are_averaged_and_must_have_the_same_classes():
  voxels = blocks((3, 24, 24))
  one = segmenter(make(mm=1.0), entropy=True)
  two = segmenter(make(mm=1.0), make(mm=3.0), entropy=True)
  a, b = (_slices(s, voxels) for s in (one, two))
  # The coarse run blurs edges: more doubt there, the same inside.
  assert b.entropy.mean() > a.entropy.mean()
  np.testing.assert_array_equal(a.labels[1, 8:16, 8:11], 420)
  np.testing.assert_array_equal(
    b.labels[1, 8:16, 8:11], a.labels[1, 8:16, 8:11]
  )
  other = make()
  other = other.__class__(
    **{**vars(other), 'task': other.task._replace(classes=('background', 'x'))}
  )
  with pytest.raises(ValueError, match='other classes'):
    segmenter(make(), other)


def test_entropy_is_0_where_certain_and_highest_between_classes():
  voxels = np.zeros((2, 16, 16), np.int16)
  voxels[:, :, 8:] = 25  # Half-way between two of the three classes.
  found = _slices(segmenter(entropy=True), voxels, (1, 1, 1))
  assert found.entropy.dtype == np.float32
  np.testing.assert_allclose(found.entropy[:, :, :7], 0, atol=1e-3)
  half = np.log(2) / np.log(len(CLASSES))
  np.testing.assert_allclose(found.entropy[:, :, 9:], half, atol=1e-3)


def test_keep_largest_drops_islands_of_each_class():
  voxels = blocks((6, 24, 24))
  voxels[0, 1, 1], voxels[5, 22, 22] = 50, 100
  islands = _slices(segmenter(), voxels).classes
  kept = _slices(segmenter(components='largest'), voxels).classes
  assert islands[0, 1, 1] == 1 and islands[5, 22, 22] == 2
  assert kept[0, 1, 1] == 0 and kept[5, 22, 22] == 0
  kept[0, 1, 1], kept[5, 22, 22] = 1, 2
  np.testing.assert_array_equal(kept, islands)


def _chosen(*names, way='validation'):
  """A run whose validation scans chose these classes."""
  run = make()
  run.config.evaluation.components = way
  choice = {name: {'keep_largest': name in names} for name in CLASSES[1:]}
  return dataclasses.replace(run, components={'ct': choice})


@pytest.mark.parametrize(
  ('way', 'option', 'kept'),
  [
    ('validation', 'run', [1]),
    ('none', 'run', []),
    ('validation', 'none', []),
    ('none', 'none', []),
    ('validation', 'validation', [1]),
    ('none', 'validation', [1]),
    ('none', 'largest', [1, 2]),
    ('validation', 'largest', [1, 2]),
  ],
)
def test_whose_largest_component_is_kept(way, option, kept):
  found = segmenter(_chosen('grey', way=way), components=option)
  assert found.kept('ct') == kept
  assert found.names_of_kept('ct') == [CLASSES[index] for index in kept]
  voxels = blocks((6, 24, 24))
  voxels[0, 1, 1], voxels[5, 22, 22] = 50, 100
  classes = _slices(found, voxels).classes
  assert (classes[0, 1, 1] == 0) == (1 in kept)
  assert (classes[5, 22, 22] == 0) == (2 in kept)


@pytest.mark.parametrize('option', ['run', 'validation'])
def test_several_runs_keep_what_all_of_them_chose(option):
  both, one, none = _chosen('grey', 'white'), _chosen('white'), _chosen()
  kept = lambda *runs: segmenter(*runs, components=option).kept('ct')
  assert kept(both, both) == [1, 2]
  assert kept(both, one) == kept(one, both, one) == [2]
  assert kept(both, one, none) == []
  # All of them have to say so, by their results or by their choice.
  silent = _chosen('grey', 'white', way='none')
  assert kept(both, silent) == ([1, 2] if option == 'validation' else [])
  assert segmenter(both, none, components='largest').kept('ct') == [1, 2]


def test_a_run_of_before_the_choice_segments_as_it_did():
  run = make()
  assert not run.components and segmenter(run).kept('ct') == []
  # It said so before it was tested.
  run.config.evaluation.components = 'validation'
  assert segmenter(run).kept('ct') == []
  with pytest.raises(ValueError, match=r'run: .*eval_only=true'):
    segmenter(run, components='validation')
  with pytest.raises(ValueError, match='choose run, none, validation, largest'):
    segmenter(run, components='all')


def test_the_central_box_leaves_specks_out_and_adds_its_margin():
  classes = np.zeros((10, 40, 50), np.uint8)
  classes[2:8, 10:30, 20:40] = 2
  classes[0, 0, 0] = classes[9, 39, 49] = 1
  box = segmentation.central_box(classes, (5.0, 1.0, 2.0), margin=4.0)
  assert box == [[1, 9], [6, 34], [18, 42]]


def test_roi_auto_segments_the_box_that_the_coarse_pass_finds():
  voxels = blocks((12, 80, 70))
  whole = segmenter(make(roi='label'), roi='none')
  auto = segmenter(make(roi='label'))
  spacing = (2.5, 1, 1)
  a, b = (_slices(s, voxels, spacing) for s in (whole, auto))
  assert a.box == [[0, 12], [0, 80], [0, 70]]
  # The blocks and 10 mm around them.
  assert b.box == [[0, 12], [10, 74], [8, 66]]
  crop = tuple(slice(*part) for part in b.box)
  outside = np.ones(voxels.shape, bool)
  outside[crop] = False
  assert not b.classes[outside].any()
  agree = (b.classes == _classes(voxels)).mean()
  assert agree > 0.97


def test_roi_auto_takes_everything_where_nothing_is_found():
  nothing = np.zeros((4, 20, 20), np.int16)
  found = _slices(segmenter(make(roi='label')), nothing)
  assert found.box == [[0, 4], [0, 20], [0, 20]] and not found.labels.any()


def test_codes_take_the_smallest_type_that_holds_them():
  classes = np.array([[[0, 1, 2]]], np.uint8)
  for codes, kind in (
    ({0: 0, 1: 1, 255: 2}, np.uint8),
    ({0: 0, 1: 1, 256: 2}, np.uint16),
    ({0: 0, -1: 1, 2: 2}, np.int32),
  ):
    modality = make(codes=codes).modalities[0]
    found = segmentation.to_codes(classes, modality)
    assert found.dtype == kind
    assert found.ravel().tolist() == list(codes)


def test_a_modality_that_no_run_knows_is_said():
  with pytest.raises(ValueError, match='was not trained on'):
    segmenter().segment(np.zeros((2, 16, 16)), 'mr', affine=np.eye(4))


def test_options_are_checked():
  with pytest.raises(ValueError, match='choose auto or none'):
    segmenter(roi='box')
  with pytest.raises(ValueError, match='no run'):
    segmentation.Segmenter([])
