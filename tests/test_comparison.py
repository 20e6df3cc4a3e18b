"Calibration, the spectral baseline, repeats, and what a comparison says of a difference."
import json,os,shutil,sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from conftest import SMALL
from test_cli import refused

from deepfake_nb.settings import Settings
from deepfake_nb.runs import load_model,predict_split,train_model
from deepfake_nb.results import best_model,comparison_table,write_metrics
from deepfake_nb.comparison import compare
from deepfake_nb.backbones import create_model
from deepfake_nb.calibration import choose_thresholds,fit_temperature
from deepfake_nb.core import InputError,read_json,read_table,write_json
from deepfake_nb.sources import make_table
from deepfake_nb.split import load_data
from deepfake_nb.metrics import auc,ece,nll,paired_difference,shown

AUDIT = dict(verdict='leaks', probes=[dict(name='jpeg quality', auc=.99, low=.97, high=1., verdict='leaks', mend='save both classes through the same JPEG'),
    dict(name='mean colour', auc=.51, low=.4, high=.6, verdict='clean', mend='')])

def gaussian(n, d=2, seed=0):
    y = np.repeat([0,1], n)
    return y,np.random.default_rng(seed).normal((2*y-1)*d**2/2, d)

@pytest.fixture(scope='session')
def table(faces): return make_table([faces/'real'], [faces/'fake'])

@pytest.fixture(scope='session')
def data(table): return load_data(table, 32)

@pytest.mark.parametrize('scale', [.2,1/3,3,8])
def test_temperature_mends_calibration_and_leaves_the_order(scale):
    y,x = gaussian(500)
    t = fit_temperature(y, scale*x)
    before,after = expit(scale*x),expit(scale*x/t)
    assert t == pytest.approx(scale, rel=.12)
    assert ece(y, after) < ece(y, before)/2 and nll(y, after) < nll(y, before)
    assert auc(y, after) == pytest.approx(auc(y, before), abs=1e-9) and ((after>.5)==(before>.5)).all()

@pytest.mark.parametrize('n', [1,5,50])
def test_temperature_of_a_split_without_a_mistake_is_bounded(n):
    y = np.repeat([0,1], n)
    p = expit((2*y-1)*9/fit_temperature(y, (2*y-1)*9.))
    assert p.max() == pytest.approx((n+1)/(n+2), abs=.01)
    for x in (np.zeros(2*n), (2*y-1)*1e-9, -(2*y-1)*5.): assert .05 <= fit_temperature(y, x) <= 20.001

@pytest.mark.parametrize('n,d,rate', [(10,1,.05),(400,1,.05),(400,2,.1),(400,4,.05),(37,6,0.),(3,.5,.05)])
def test_thresholds_keep_their_promise(n, d, rate):
    y,x = gaussian(n, d)
    p = expit(x)
    real_below,threshold = choose_thresholds(y, p, rate)
    assert real_below <= threshold
    assert (p[y==0]>=threshold).mean() <= rate and (p[y==1]<real_below).mean() <= rate
    if real_below < threshold: assert (p[y==0]>=p[y==0][p[y==0]<threshold].max()).mean() > rate, 'a lower one would do'

def test_constant_scores_are_all_uncertain():
    real_below,threshold = choose_thresholds([0]*20+[1]*20, [.3]*40)
    assert real_below <= .3 < threshold

def test_bad_input_of_the_calibration():
    for f in (lambda: fit_temperature([0,1], [0,np.inf]), lambda: fit_temperature([0,0], [0,1]), lambda: choose_thresholds([1,1], [.1,.2]), lambda: choose_thresholds([0,1], [.1,.2], 1.5)):
        with pytest.raises(InputError) as e: f()
        assert '\n' not in str(e.value)

def test_paired_difference_is_finer_than_two_intervals():
    y,x = gaussian(1500)
    a,b = expit(x),expit(x+np.random.default_rng(1).normal(0, .7, len(x)))
    g = paired_difference((y,a,b))
    assert g['mean'] == pytest.approx(nll(y, a)-nll(y, b)) and g['low'] < g['mean'] < g['high'] < 0 and shown(g) == -1
    assert paired_difference((y,a,b)) == g and paired_difference((y,b,a))['low'] > 0
    wide = paired_difference((y,a,b), (y,b,b))
    assert wide['mean'] == pytest.approx(g['mean']/2) and wide['high']-wide['low'] > g['high']-g['low'], 'another seed is another source of doubt'

def test_the_calibrated_model_is_the_model_that_is_kept(data, tmp_path):
    c = train_model('cnn2', data, tmp_path/'m', Settings(epochs=4, batch_size=16), 'cpu')
    model,config = load_model(tmp_path/'m')
    v = pd.read_csv(tmp_path/'m'/'predictions.csv')
    assert np.allclose(predict_split(model, data, 'valid', device='cpu'), v.prob_fake, atol=1e-6)
    assert c['temperature'] != 1 and {'real_below','threshold','false_alarm_rate'} <= set(config)
    assert (config['real_below'],config['threshold']) == pytest.approx(choose_thresholds(v.label, v.prob_fake), abs=1e-6)
    m = write_metrics(tmp_path/'m')
    z = np.log(v.prob_fake/(1-v.prob_fake))*c['temperature']
    assert m['uncalibrated']['loss'] == pytest.approx(nll(v.label, expit(z)), rel=1e-5) and set(m) == {'valid','uncalibrated'}
    h = pd.read_csv(tmp_path/'m'/'history.csv')
    assert m['uncalibrated']['loss'] == pytest.approx(h.valid_loss.min(), abs=5e-3), 'the loss of training is the one before the temperature'

def test_the_papers_recipe_is_not_calibrated(data, tmp_path):
    assert train_model('cnn2', data, tmp_path/'m', Settings(recipe='paper', epochs=1, batch_size=16))['temperature'] == 1

def test_killed_between_the_last_files_it_does_not_fold_twice(data, tmp_path, monkeypatch):
    train = lambda name: train_model('cnn2', data, tmp_path/name, Settings(epochs=2, batch_size=16), 'cpu')
    train('whole')
    def die(*_): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(pd.DataFrame, 'to_csv', lambda self, *a, _old=pd.DataFrame.to_csv, **k: die() if 'prob_fake' in self else _old(self, *a, **k))
        with pytest.raises(KeyboardInterrupt): train('cut')
    assert {o.name for o in (tmp_path/'cut').iterdir()} == {'checkpoint.safetensors','config.json','history.csv','model.safetensors'}
    train('cut')
    for f in ('model.safetensors','predictions.csv'): assert (tmp_path/'whole'/f).read_bytes() == (tmp_path/'cut'/f).read_bytes()
    a,b = (read_json(tmp_path/o/'config.json') for o in ('whole','cut'))
    assert all(a[k]==b[k] for k in ('temperature','threshold','real_below')) and not (tmp_path/'cut'/'checkpoint.safetensors').exists()

@pytest.mark.parametrize('name', ['cnn2','spectrum'])
def test_the_test_split_takes_part_in_no_choice(name, data, tmp_path):
    def run(spoil):
        t,px = data.table.copy(),np.array(data.pixels)
        test = t.index[t.split=='train'][::4]
        t.loc[test,'split'] = 'test'
        if spoil: px[test] = 255-px[test][:,:1,:1]; t.loc[test,'label'] = 1-t.label[test]
        c = train_model(name, replace(data, table=t, pixels=px), tmp_path/str(spoil), Settings(epochs=2, batch_size=16), 'cpu')
        return (tmp_path/str(spoil)/'model.safetensors').read_bytes(),[c[k] for k in ('temperature','real_below','threshold')],pd.read_csv(tmp_path/str(spoil)/'predictions.csv')
    (w1,c1,p1),(w2,c2,p2) = run(False),run(True)
    assert w1 == w2 and c1 == c2
    same = lambda s: p1[p1.split==s].prob_fake.tolist() == p2[p2.split==s].prob_fake.tolist()
    assert same('valid') and not same('test')

def test_spectrum_is_a_fourier_transform_and_exports():
    pytest.importorskip('onnxscript'); ort = pytest.importorskip('onnxruntime')
    model,x = create_model('spectrum', 48).eval(),torch.rand(3,3,48,48)
    gray = (x*model.gray).sum(1).numpy()
    power = np.abs(np.fft.rfft2(gray-gray.mean((1,2), keepdims=True)))**2
    with torch.no_grad(): assert np.allclose(model.features(x), np.log(power.reshape(3,-1)@model.rings.numpy()+1e-8), atol=1e-3)
    assert torch.allclose(model.features(x), model.features(x.transpose(2,3)), atol=1e-3) and torch.allclose(model.features(x), model.features(x.flip(3)), atol=1e-3)
    prog = torch.onnx.export(model, (x[:2],), dynamo=True, verbose=False, dynamic_shapes=({0:torch.export.Dim('n')},))
    session = ort.InferenceSession(prog.model_proto.SerializeToString())
    with torch.no_grad(): assert np.allclose(session.run(None, {session.get_inputs()[0].name:x.numpy()})[0], model(x).numpy(), atol=1e-4)

def test_the_baseline_is_in_every_comparison_and_never_the_best(trained, tmp_path):
    df = pd.read_csv(trained/'comparison.csv', keep_default_na=False)
    assert set(df.model) == {'cnn2','resnet18','spectrum'} and read_json(trained/'config.json')['models'] == ['cnn2','resnet18']
    assert list(pd.read_csv(trained/'spectrum'/'history.csv').stage) == ['fit']
    shutil.copytree(trained, run := tmp_path/'run')
    m = read_json(run/'spectrum'/'metrics.json')
    m['valid']['loss'] = 0.
    write_json(run/'spectrum'/'metrics.json', m)
    assert comparison_table(run).model[0] == 'spectrum' and best_model(run).name in ('cnn2','resnet18')
    md = (run/'comparison.md').read_text()
    assert all(any(f'- {n}: **{v}**' in md for v in ('beats the baseline','no difference shown','loses to the baseline')) for n in ('cnn2','resnet18'))
    assert 'in this run' in md and 'RANDOM' in md and 'spectrum started' not in md
    for n in ('cnn2','resnet18'): shutil.rmtree(run/n)
    assert best_model(run).name == 'spectrum'

def test_the_audit_is_kept_and_shown(table, tmp_path):
    compare(table, out := tmp_path/'run', Settings(['spectrum'], size=32, batch_size=16), log=lambda o: None, audit=AUDIT)
    assert read_json(out/'audit.json') == AUDIT and best_model(out).name == 'spectrum'
    page,md,card = ((out/o).read_text() for o in ('report.html','comparison.md','spectrum/model_card.md'))
    assert all('leaks' in o and 'jpeg quality' in o for o in (page,md,card)) and 'same JPEG' in page and 'same JPEG' in md and 'mean colour' not in md

def test_the_card_says_what_a_user_must_know(trained):
    card,c = (trained/'resnet18'/'model_card.md').read_text(),read_json(trained/'resnet18'/'config.json')
    for words in ('## Data','## Calibration','Not meant','Apache-2.0','First weights: random','No shortcut audit',f"{c['threshold']:.3f}",f"{c['temperature']:.2f}",'| auc '): assert words in card, words
    assert '{{' not in card and '\n\n\n' not in card and len(card) < 4000

def test_seeds_are_runs_like_any_other(cli, faces, table, tmp_path):
    out,ours = tmp_path/'run',('--real', faces/'real', '--fake', faces/'fake', '--models', 'cnn1', *SMALL)
    run = lambda *a: cli('compare', *ours, '--out', out, *a)
    assert run('--seeds', '0,1')[0] == 0
    df = pd.read_csv(out/'comparison.csv', keep_default_na=False).set_index('model')
    each = [pd.read_csv(out/f'seed{s}'/'comparison.csv').set_index('model') for s in (0,1)]
    assert df.valid_loss['cnn1'] == pytest.approx(np.mean([o.valid_loss['cnn1'] for o in each]))
    assert df.valid_loss_sd['cnn1'] == pytest.approx(np.std([o.valid_loss['cnn1'] for o in each], ddof=1))
    assert list(df.columns[:7]) == ['weights','params','valid_loss','valid_accuracy','valid_auc','valid_ap','valid_eer']
    assert {o.name for o in out.iterdir()} >= {'config.json','comparison.csv','comparison.md','comparison.png','loss_curves.png','report.html','seed0','seed1'}
    assert best_model(out) == out/'seed0'/'cnn1' and '±' in (out/'report.html').read_text()
    compare(table, tmp_path/'alone', Settings(['cnn1'], size=32, batch_size=16, frozen_epochs=1, epochs=2, weights='none', seed=1), log=lambda o: None)
    assert (tmp_path/'alone'/'cnn1'/'predictions.csv').read_bytes() == (out/'seed1'/'cnn1'/'predictions.csv').read_bytes(), 'seed1 is the run with --seed 1'
    code,text,_ = cli('evaluate', out, '--real', faces/'real', '--fake', faces/'fake', '--json')
    assert code == 0 and json.loads(text)['n_real'] == 40
    stamp = (out/'seed1'/'cnn1'/'model.safetensors').stat().st_mtime_ns
    shutil.rmtree(out/'seed1'/'spectrum')
    assert run('--seeds', '0,1', '--resume')[0] == 0 and (out/'seed1'/'spectrum'/'metrics.json').exists()
    assert (out/'seed1'/'cnn1'/'model.safetensors').stat().st_mtime_ns == stamp
    refused(run('--seeds', '0,2', '--resume'), 'another run', 'seeds')
    out = tmp_path/'new'
    refused(run('--seeds', '0,x'), 'such as 0,1,2')
    refused(run('--seeds', '3,3'), 'twice')
    refused(run('--seeds', '0,-1'), 'seed -1')
    refused(cli('compare', *ours, '--n-per-class', 3, '--seeds', '0,1', '--out', out), 'too few')
    assert not out.exists()

def test_names_that_are_not_utf8(faces, tmp_path):
    "A camera's old card: the name of a file is bytes, and no table may stumble over it, the last one included"
    if sys.platform == 'darwin': pytest.skip('the file system refuses such names')
    shutil.copytree(faces, tmp_path/'d')
    for o in sorted((tmp_path/'d').rglob('*.jpg')):
        os.rename(os.fsencode(o), os.fsencode(o.parent)+b'/caf\xe9'+os.fsencode(o.name))
    compare(make_table([tmp_path/'d'/'real'], [tmp_path/'d'/'fake']), tmp_path/'run', Settings(['spectrum'], size=32, batch_size=16, epochs=1, weights='none'), log=lambda o: None, audit=False)
    preds = read_table(tmp_path/'run'/'spectrum'/'predictions.csv')
    assert len(preds)>10 and all(os.path.exists(o) and b'caf\xe9' in os.fsencode(o) for o in preds.path)

@pytest.mark.parametrize('text', ['{"verdict": "clean", "probes": [true]}', '{"verdict": 1, "probes": []}', '{"verdict": "leaks", "probes": [{"name": "size"}]}', '[]', '{'])
def test_a_damaged_audit_is_one_line(tmp_path, text):
    from deepfake_nb.results import read_audit
    assert read_audit(tmp_path) is None
    (tmp_path/'audit.json').write_text(text)
    with pytest.raises(InputError, match='audit.json'): read_audit(tmp_path)
