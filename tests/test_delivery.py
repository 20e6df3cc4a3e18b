"How pictures arrive: changes that change, counts that add up, ranges chosen on some pictures and judged on others."
import json,shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deepfake_nb.core import InputError
from deepfake_nb.delivery import EDITS,STATES,STRESS,_halves,by_state,changed_scores,choose_blind,compare_ways,in_blind,moved_threshold
from deepfake_nb.detector import Detector
from deepfake_nb.images import find_images
from deepfake_nb.portraits import draw_portrait

def refused(res, *words):
    code,out,err = res
    assert (code,out) == (2,'') and all(o in err.strip().splitlines()[-1] for o in words), res

@pytest.mark.parametrize('name', [*STATES,*EDITS])
def test_a_change_changes(name):
    img = draw_portrait(3, 128)
    out = {**STATES,**EDITS}[name](img)
    assert out.mode == 'RGB' and min(out.size)>60
    assert (name=='native') == (out.size==img.size and out.tobytes()==img.tobytes())
    assert out.tobytes() == {**STATES,**EDITS}[name](img).tobytes()        # the same each time

def rows(detail, noise, words, state='native'):
    "Scores as `changed_scores` gives them"
    p = [{'fake':.95,'uncertain':.5,'real':.05}[o] for o in words]
    return pd.DataFrame(dict(path=[f'{state}{i}' for i in range(len(words))], state=state, prob_fake=p, detail=detail, noise=noise, verdict=words, by_score=words))

def test_blind_ranges_are_those_with_wrong_answers():
    good,bad = ['real']*99+['fake'],['real']*90+['fake']*10
    def pd_concat(dfs): return pd.concat(dfs, ignore_index=True)
    real = pd_concat([rows(1., .2, good), rows(.5, .2, bad, 'half'), rows(.25, .2, good, 'quarter'), rows(1., 4., bad, 'noise')])
    fake = pd_concat([rows(1., .2, ['fake']*100), rows(.5, .2, ['fake']*100, 'half'), rows(.25, .2, ['real']*50+['fake']*50, 'quarter'), rows(1., 4., ['fake']*100, 'noise')])
    blind = choose_blind(real, fake)
    def is_blind(detail, noise): return bool(in_blind(rows(detail, noise, ['real']), blind)[0])
    assert [is_blind(*o) for o in ((1.,.2),(.5,.2),(.25,.2),(.7,.2),(1.,4.))] == [False,True,True,False,True]
    left = real[~in_blind(real, blind)]
    assert set(left.state) == {'native'} and (left.by_score=='fake').mean() <= .02
    few = choose_blind(rows(.5, .2, ['fake']*9), rows(.5, .2, ['real']*9))           # too few to say
    assert not in_blind(rows(.55, .1, ['real']), few)[0]

def test_beyond_what_was_measured_there_is_no_answer():
    real = rows(np.linspace(.2, 1, 500), np.linspace(0, 2, 500), ['real']*500)
    blind = choose_blind(real, real.assign(by_score='fake'))
    assert [bool(in_blind(rows(d, n, ['real']), blind)[0]) for d,n in ((.05,.1),(.5,.1),(1.,.1),(.5,9.))] == [True,False,False,True]

def test_moved_threshold_keeps_the_budget_in_every_state():
    rng = np.random.default_rng(0)
    real = pd.concat([rows(1., .2, ['real']*200, s).assign(prob_fake=rng.beta(1, b, 200)) for s,b in (('a',9),('b',4))])
    t = moved_threshold(real)
    worst = real.groupby('state').prob_fake.apply(lambda p: (p>=t).mean())
    assert worst.max() <= .02 and .01 < worst['b']
    ways = compare_ways((real,real), (real,real), .5)
    assert list(ways.way) == ['scores alone','blind ranges','moved threshold'] and ways.worst_state[2] <= .02

def test_halves_share_no_picture():
    df = pd.concat([rows(1., .2, ['real']*9, s).assign(path=[f'{i}.jpg' for i in range(9)]) for s in 'ab'])
    a,b = _halves(df)
    assert len(a)+len(b) == len(df) and not set(a.path) & set(b.path)

def test_counts(trained, faces):
    det = Detector.load(trained/'cnn2')
    scores = changed_scores(det, find_images(faces/'real')[:5], {k:STATES[k] for k in ('native','JPEG 40')})
    sheet = by_state(scores)
    assert list(sheet.state) == ['native','JPEG 40'] and set(sheet.real_n) == {5}
    assert sheet[['real_fake','real_uncertain','real_real']].sum(axis=1).tolist() == pytest.approx([1,1])
    assert scores.prob_fake[0] == pytest.approx(det.predict(scores.path[0])[0].prob_fake, abs=1e-5)

def test_a_state_without_faces_is_left_out():
    "After a strong blur no face may be found in any fake: there is nothing to count"
    real,fake = pd.concat([rows(1., .2, ['real']*9), rows(.1, .2, ['real']*9, 'blur')]),rows(1., .2, ['fake']*9)
    assert list(by_state(real, fake).state) == ['native'] and list(by_state(real).state) == ['native','blur']

def test_what_cannot_be_read_is_left_out_and_named(trained, faces, tmp_path):
    det,said = Detector.load(trained/'cnn2'),[]
    (tmp_path/'bad.jpg').write_text('no picture')
    scores = changed_scores(det, [tmp_path/'bad.jpg', find_images(faces)[0]], {'native':STATES['native']}, said.append)
    assert len(scores) == 1 and len(said) == 1 and 'bad.jpg' in said[0]
    with pytest.raises(InputError): changed_scores(det, [tmp_path/'bad.jpg'], log=said.append)
    Image.new('RGB', (300,300)).save(tmp_path/'blank.png')
    with pytest.raises(InputError): changed_scores(Detector.default(), [tmp_path/'blank.png'], log=said.append)
    assert 'no face found' in said[-1]

def test_robustness_keeps_ranges_in_the_run(cli, trained, faces, tmp_path):
    run = shutil.copytree(trained, tmp_path/'run')/'cnn2'
    data = '--real', faces/'real', '--fake', faces/'fake'
    code,out,_ = cli('robustness', run, *data)
    assert code == 0 and all(k in out for k in STATES) and not (run/'delivery.json').exists()
    code,out,_ = cli('robustness', run, *data, '--gate', '--json')
    res = json.loads(out)
    assert code == 0 and set(res) == {'states','blind','ways'} and [r['state'] for r in res['states']] == list(STATES)
    assert json.loads((run/'delivery.json').read_text()) == dict(blind=res['blind'])
    assert Detector.load(run).config['blind'] == res['blind'] and res['states'][0]['real_n'] == 20
    refused(cli('robustness', run, '--real', faces/'real'), 'fake')
    from deepfake_nb.onnx_export import export
    export(run, tmp_path/'m.onnx')
    refused(cli('robustness', tmp_path/'m.onnx', *data, '--gate'), "run's folder")

def test_stress(cli, trained, faces, tmp_path):
    args = '--real', faces/'real', '--model', trained/'cnn2'
    code,out,_ = cli('stress', *args, '--out', tmp_path/'s.html')
    assert code == 0 and all(k in out for k in STRESS) and 'simulated' in out
    assert 'cnn2' in (page := (tmp_path/'s.html').read_text(encoding='utf-8')) and '<script' not in page
    code,out,_ = cli('stress', *args, '--json')
    sheet = json.loads(out)
    assert [r['state'] for r in sheet] == list(STRESS) and all(r['real_low']<=r['real_fake']<=r['real_high'] for r in sheet)
    refused(cli('stress', '--real', tmp_path/'nowhere', '--model', trained/'cnn2'), 'none of the pictures')
