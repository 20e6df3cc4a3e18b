"A run's folder may be damaged, half there, or made by somebody: it is refused in one line, or answers as it always did."
import json,random,shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file,save_file

from deepfake_nb.features import _read_tensors
from deepfake_nb.settings import Settings
from deepfake_nb.backbones import create_model
from deepfake_nb.core import InputError,read_json
from deepfake_nb.sources import make_table
from deepfake_nb.split import load_data
from deepfake_nb.checkpoints import Run
from deepfake_nb.learner import batch_accuracy
from deepfake_nb.runs import load_model,train_model
from deepfake_nb.settings import CONFIG,read_config

@pytest.fixture(scope='module')
def data(faces): return load_data(make_table([faces/'real'], [faces/'fake']), 32)

@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    "Two small models, finished"
    out = tmp_path_factory.mktemp('runs')
    for o in ('cnn2','resnet18'): train_model(o, data, out/o, Settings(frozen_epochs=1, epochs=1, batch_size=16, weights='none'), 'cpu')
    return out

@pytest.fixture
def folder(run, tmp_path): return shutil.copytree(run/'resnet18', tmp_path/'m')

def outcome(f):
    "What `f` returns, or the line that it refuses with; anything else is a fault"
    try: return f()
    except InputError as e:
        assert '\n' not in str(e)
        return str(e)

def flipped(whole, rng, most=None):
    b = bytearray(whole)
    b[rng.randrange(most or len(b))] ^= 1 << rng.randrange(8)
    return bytes(b)

def test_a_flipped_bit_in_the_weights_is_refused_or_changes_nothing(folder):
    file,rng = folder/'model.safetensors',random.Random(0)
    whole,state = file.read_bytes(),load_model(folder)[0].state_dict()
    head = 8+int.from_bytes(whole[:8], 'little')
    for i in range(40):
        file.write_bytes(flipped(whole, rng, head if i%2 else None))
        got = outcome(lambda: load_model(folder))
        assert isinstance(got, str) or all(torch.equal(v, state[k]) for k,v in got[0].state_dict().items()), i

def test_a_flipped_bit_in_a_checkpoint_is_refused_or_changes_nothing(data, tmp_path):
    torch.manual_seed(0)
    run = Run(tmp_path, create_model('cnn2', 32), dict(model='cnn2', seed=0))
    run.history = [dict(stage='whole', epoch=1, train_loss=.57, valid_loss=.6, valid_accuracy=.5, seconds=1.)]
    opt = torch.optim.Adam(run.model.parameters())
    run.model(torch.rand(2, 3, 32, 32)).sum().backward()
    opt.step()
    run.save(opt)
    whole,rng,state = run.file.read_bytes(),random.Random(1),{k:v.clone() for k,v in run.model.state_dict().items()}
    head = 8+int.from_bytes(whole[:8], 'little')
    def load():
        again = Run(tmp_path, create_model('cnn2', 32), dict(model='cnn2'))
        again.load()
        return again
    assert load().history == run.history
    for i in range(40):
        run.file.write_bytes(flipped(whole, rng, head if i%2 else None))
        got = outcome(load)
        assert isinstance(got, str) or got.history==run.history and all(torch.equal(v, state[k]) for k,v in got.model.state_dict().items()), i
    for n in (0, 7, len(whole)//2, len(whole)-1):
        run.file.write_bytes(whole[:n])
        assert 'damaged' in outcome(load) and 'from its start' in outcome(load)

def test_a_checkpoint_without_a_checksum_is_checked_all_the_same(tmp_path):
    model = create_model('cnn2', 32)
    run = Run(tmp_path, model, dict(model='cnn2'))
    tensors = {f'model.{k}':v for k,v in model.state_dict().items()}
    whole = dict(history=[dict(stage='whole', epoch=1, train_loss=.5, valid_loss=.5, valid_accuracy=.5, seconds=1.)], seconds=1., best_loss=None)
    save_file(tensors, run.file, {'json':json.dumps(whole)}); run.load()
    assert run.done('whole') == 1
    for k,v in (('history',None),('history',[1]),('history',[dict(stage='whole')]),('seconds','1'),('best_loss','low')):
        save_file(tensors, run.file, {'json':json.dumps({**whole, k:v})})
        assert 'no checkpoint of cnn2' in outcome(run.load)
    for bad in (None, [], {}, 'x'):
        save_file(tensors, run.file, {'json':json.dumps(bad)})
        assert 'no checkpoint of cnn2' in outcome(run.load)
    save_file({**tensors, 'opt.x.step':torch.ones(1)}, run.file, {'json':json.dumps(whole)})
    assert 'no checkpoint of cnn2' in outcome(run.load)
    save_file({k:v*float('nan') if v.is_floating_point() else v for k,v in tensors.items()}, run.file, {'json':json.dumps(whole)})
    assert 'finite' in outcome(run.load)

wrong = [None, True, -1, 0, 1e308, 10**40, '', '../victim', 'a/b', '\x1b[2J', [], {}, [1], {'a':1}, '9'*500]
@pytest.mark.parametrize('field', [*CONFIG])
def test_every_field_of_the_settings_is_checked(folder, field):
    whole = read_json(folder/'config.json')
    assert read_config(folder) == whole
    said = 0
    for v in wrong:
        (folder/'config.json').write_text(json.dumps({**whole, field:v}))
        got = outcome(lambda: read_config(folder))
        if isinstance(got, str): said += 1; assert 'config.json' in got and field in got
        elif not isinstance(v, (dict,list)): assert got[field]==v
    assert said >= 8, f'{field} takes nearly anything'

@pytest.mark.parametrize('field,value', [('normalize',1),('resample','cubic'),('resample',None),('n_views','6'),('lr_top',[1]),('grad_clip',-1),('normalize',None)])
def test_the_recipe_is_checked(folder, field, value):
    c = read_json(folder/'config.json')
    c['recipe'][field] = value
    (folder/'config.json').write_text(json.dumps(c))
    assert 'recipe' in outcome(lambda: load_model(folder))

def test_settings_of_another_model(folder):
    c = read_json(folder/'config.json')
    for change in (dict(model='cnn2'),dict(model='cnn2', size=4096),dict(model='nosuch'),dict(model='densenet121'),dict(arch='resnet34'),dict(arch='nosuch'),dict(variant='caffe'),dict(model='vit_tiny_patch16_224', size=4096)):
        (folder/'config.json').write_text(json.dumps({**c, 'arch':change.get('model', c['arch']), **change}))
        assert isinstance(outcome(lambda: load_model(folder)), str), change

def test_settings_that_are_none(folder):
    for text in ('', '[]', 'null', '{}', '"x"', '[NaN]', '['*100_000, '{"model":1e999}'):
        (folder/'config.json').write_text(text)
        assert isinstance(outcome(lambda: load_model(folder)), str), text[:20]

@pytest.mark.parametrize('how', ('missing','more','shape','kind','no number'))
def test_tensors_that_do_not_fit(folder, how):
    state = load_file(folder/'model.safetensors')
    k = 'head.2.weight'
    if how=='missing': del state[k]
    if how=='more': state['x'] = torch.ones(1)
    if how=='shape': state[k] = state[k][:1].clone()
    if how=='kind': state[k] = state[k].double()
    if how=='no number': state[k][0,0] = float('nan')
    save_file(state, folder/'model.safetensors')
    assert 'does not fit' in outcome(lambda: load_model(folder))

def test_a_folder_of_a_former_version_loads(folder):
    state = load_model(folder)[0].state_dict()
    save_file(load_file(folder/'model.safetensors'), folder/'model.safetensors')         # no checksum
    c = {k:v for k,v in read_json(folder/'config.json').items() if k not in ('arch','variant')}
    del c['recipe']['keras_weights']
    (folder/'config.json').write_text(json.dumps(c))
    assert all(torch.equal(v, state[k]) for k,v in load_model(folder)[0].state_dict().items())

def test_not_permitted_is_not_damaged(folder, monkeypatch):
    def denied(*a, **kw): raise PermissionError(13, 'Permission denied')
    monkeypatch.setitem(_read_tensors.__globals__, 'open', denied)
    said = outcome(lambda: load_model(folder))
    assert 'not permitted' in said and 'damaged' not in said and 'remove' not in said

def test_a_tie_is_called_fake_by_both_accuracies():
    from deepfake_nb import metrics
    y = np.array([0,1,1])
    assert float(batch_accuracy(torch.zeros(3,1), torch.tensor(y))) == pytest.approx(metrics.accuracy(y, np.full(3, .5)))

@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'), RuntimeError('MPS backend out of memory')])
def test_a_full_card_is_one_line(data, tmp_path, monkeypatch, error):
    from deepfake_nb import runs
    def full(*args): raise error
    monkeypatch.setattr(runs, 'fit_stage', full)
    with pytest.raises(InputError, match="the memory of 'cpu' is full: cnn2 needs a smaller --batch-size than 16") as e:
        train_model('cnn2', data, tmp_path/'m', Settings(epochs=1, batch_size=16), 'cpu')
    assert len(str(e.value).splitlines())==1
    error.args = 'shapes do not fit',
    with pytest.raises(RuntimeError, match='shapes'): train_model('cnn2', data, tmp_path/'n', Settings(epochs=1, batch_size=16), 'cpu')
