from dbdc_jax.experiments import views


def _grids(value):
  return {'native': {'liver': {'dice': value, 'hd95': value}}}


def _results(scored):
  """A run whose scan has another value in each way."""
  own, beside, last, last_beside = (
    {'mean': value, 'modalities': {}} for value in (1.0, 2.0, 3.0, 4.0)
  )
  case = {'case': 'a', 'patient': 'a', 'modality': 'ct', **_grids(1.0)}
  case['beside'] = _grids(2.0)
  case['last'] = {**_grids(3.0), 'beside': _grids(4.0)}
  return {
    'run': {'components': scored},
    **own,
    'beside': beside,
    'last': {**last, 'beside': last_beside},
    'cases': [case],
  }


def _values(results):
  found = views.of(results)
  for of_view in found.values():
    (case,) = of_view['cases']
    assert case['native']['liver']['dice'] == of_view['mean']
    assert case['patient'] == 'a'
  return {view: of_view['mean'] for view, of_view in found.items()}


def test_a_run_says_the_same_whichever_way_its_own_is():
  assert _values(_results('none')) == {'without': 1, 'with': 2, 'last': 3}
  assert _values(_results('validation')) == {'without': 2, 'with': 1, 'last': 4}


def test_a_run_has_the_views_that_it_was_scored_by():
  results = _results('validation')
  del results['last']
  assert _values(results) == {'without': 2, 'with': 1}
  del results['beside'], results['run']['components']
  assert _values(results) == {'without': 1}
