import pytest

from data import task_file
from data.formats import nnunet
from data.task import UNKNOWN

NEW = {
  'channel_names': {'0': 'CT'},
  'labels': {'background': 0, 'liver': 1, 'vessels': [2, 3]},
  'numTraining': 3,
  'file_ending': '.nii.gz',
}
OLD = {
  'name': 'Livers',
  'modality': {'0': 'CT'},
  'labels': {'0': 'background', '1': 'liver', '2': 'vessels'},
  'training': [
    {'image': './imagesTr/a.nii.gz', 'label': './labelsTr/a.nii.gz'}
  ],
}


def test_the_new_form_is_a_task_of_one_modality():
  task = task_file.from_dict(NEW, 'Dataset003')
  assert task.name == 'Dataset003'
  assert task.classes == ('background', 'liver', 'vessels')
  (ct,) = task.modalities
  assert (ct.name, ct.title, ct.series, ct.source) == (
    'ct',
    'CT',
    '.',
    'folder',
  )
  assert ct.codes == {0: 0, 1: 1, 2: 2, 3: 2}
  assert ct.intensity.window == (-125, 275) and ct.plane == 'acquired'


def test_the_old_form_is_the_same_task():
  task = task_file.from_dict(OLD, 'x')
  assert task.name == 'Livers'
  assert task.modalities[0].codes == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize(
  ('channels', 'name'),
  [
    ({'0': 'T2-weighted (SPIR)'}, 't2-weighted_spir'),
    (['MRI'], 'mri'),
    ({'0': 'Größe'}, 'groe'),
    ({'0': 'КТ'}, 'image'),
    (None, 'image'),
  ],
)
def test_the_channel_gives_a_clean_name(channels, name):
  task = task_file.from_dict({**NEW, 'channel_names': channels}, 'x')
  (found,) = task.modalities
  assert found.name == name and found.intensity.window is None


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'channel_names': {'0': 'T1', '1': 'T2'}}, '2 channels (T1, T2)'),
    ({'channel_names': 'CT'}, 'must name the channels'),
    ({'labels': {'background': 0, 'all': [1, 2], 'tumour': 2}}, 'overlap'),
    ({'labels': {'all': [1, 2], 'tumour': [2, 3]}}, 'overlap: code 2'),
    ({'labels': {'background': 0, 'Ignore': 7}}, 'no class but background'),
    ({'labels': {'liver': 1.5}}, 'no name with a whole number'),
    ({'labels': {'liver': []}}, 'no name with a whole number'),
    ({'labels': {'liver': None}}, 'no name with a whole number'),
    ({'labels': {'liver': {'a': 1}}}, 'no name with a whole number'),
    ({'labels': {'x': 'liver'}}, 'no name with a whole number'),
    ({'labels': {'background': 0}}, 'no class but background'),
    ({'labels': []}, 'each class its code'),
    ({'labels': None}, 'each class its code'),
  ],
)
def test_what_cannot_be_trained_is_refused_in_words(change, said):
  with pytest.raises(nnunet.NotUsableError) as caught:
    task_file.from_dict({**NEW, **change}, 'x')
  assert said in caught.value.reason and caught.value.remedy


@pytest.mark.parametrize(
  'labels', [{'liver': 1, 'ignore': 7}, {'1': 'liver', '7': 'Ignore'}]
)
def test_what_was_not_annotated_is_no_class(labels):
  task = task_file.from_dict({**NEW, 'labels': labels}, 'x')
  (kind,) = task.modalities
  assert task.classes == ('background', 'liver')
  assert kind.codes == {0: 0, 1: 1, 7: UNKNOWN}
  assert kind.written_codes() == {0: 0, 1: 1}
  assert task.labelable(task.modalities).tolist() == [[True, True]]
  assert task_file.from_dict(task_file.to_dict(task), 'x') == task
