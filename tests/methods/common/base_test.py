"""What a config says of DBDC, as numbers of the step."""

import numpy as np
import pytest

from configs import heart
from dbdc_jax import methods


def _reading(epoch=1, **fields):
  config = heart.get_config('scans=/d')
  config.update_from_flattened_dict(
    {name.replace('__', '.'): value for name, value in fields.items()}
  )
  methods.build(config)
  return methods.reading(config, epoch)


def test_the_papers_reading_is_the_default():
  found, paper = _reading(), methods.Reading()
  for name, mine, default in zip(paper._fields, found, paper, strict=True):
    np.testing.assert_allclose(mine, default, err_msg=name)
  # delta / 4 of each term (eq 12, 18, 19, 21).
  assert np.allclose(_reading(mpcl__delta=0.4).mpcl, 0.1)


def test_terms_that_are_off_weigh_nothing():
  found = _reading(mpcl__mc=False, mpcl__pd=False).mpcl
  np.testing.assert_allclose(found, [[0.025, 0, 0.025, 0]] * 2)


def test_the_later_codes_weights_over_the_printed_ones():
  """80 times in L_pseg; 8 times in the others of labelled slices, then 16."""
  code = np.asarray(_reading(mpcl__reading='code').mpcl)
  ratio = code / np.asarray(_reading().mpcl)
  np.testing.assert_allclose(
    ratio, [[80, 8, 8, 8], [80, 16, 16, 16]], rtol=1e-5
  )


def test_the_bank_may_wait_for_the_end_of_the_warmup():
  acts = lambda epoch, start: bool(_reading(epoch, mpcl__start=start).bank)
  assert [acts(e, 'warmup') for e in (1, 4, 5)] == [False, False, True]
  assert acts(1, 'first')


def test_other_fields_reach_their_number():
  found = _reading(
    mpcl__across='align',
    mpcl__momentum=0.999,
    dc__confidence=0.9,
    weighting__reading='code',
  )
  assert found.across == -1 and not found.weighs_unlabeled
  np.testing.assert_allclose(found.momentum, 0.999)
  np.testing.assert_allclose(found.confidence, 0.9)


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('mpcl__reading', 'cod', 'printed or code'),
    ('mpcl__start', 'late', 'first or warmup'),
    ('mpcl__across', 'up', 'separate or align'),
    ('dc__pseudo', 'other', 'student or teacher'),
    ('weighting__reading', 'x', 'printed or code'),
    ('dc__confidence', 1.5, r'number in \[0, 1\]'),
    ('dc__cutmix', -0.1, r'number in \[0, 1\]'),
    ('mpcl__delta', -0.1, '0 or more'),
    ('weighting__smoothing', 0.0, 'above 0'),
  ],
)
def test_what_no_reading_has_is_refused(field, value, words):
  with pytest.raises(ValueError, match=words):
    _reading(**{field: value})
