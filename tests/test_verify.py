"Receipts, runs checked against them, and detectors compared by their scores alone."
import json,os,pickle,shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import mannwhitneyu,norm

from conftest import SMALL
from deepfake_nb import verify as v
from deepfake_nb.core import InputError,read_json,sha256,write_json
from deepfake_nb.metrics import nll
from deepfake_nb.report import _command,_sum_of,write_receipt

def quiet(line): pass

def seal(run, **changes):
    "Change entries of a receipt and give it a new checksum, as a forger would"
    r = read_json(run/'receipt.json')|changes
    del r['sha256']
    write_json(run/'receipt.json', r|dict(sha256=_sum_of(r)))

def faults(run): return {(o['what'],o['name']) for o in v.verify(run, quiet)['faults']}

@pytest.fixture
def run(trained, tmp_path):
    "A copy of the comparison, in another place"
    return shutil.copytree(trained, tmp_path/'moved')

@pytest.fixture(scope='module')
def pictures(trained): return pd.read_csv(trained/'table.csv')

@contextmanager
def meanwhile(path, change):
    "Change a file for a while"
    path = Path(path)
    before = path.read_bytes()
    try:
        change(path)
        yield str(path)
    finally: path.write_bytes(before)

def resave(path): Image.open(path).save(path, quality=60)

# The receipt

def test_a_receipt_covers_the_whole_folder(trained):
    r = read_json(trained/'receipt.json')
    there = {o.relative_to(trained).as_posix() for o in trained.rglob('*') if o.is_file()}
    assert set(r['files']) == there-{'receipt.json'} and all(sha256(trained/k)==o for k,o in r['files'].items())
    assert {'python','torch','torchvision','timm','fastai','numpy','Pillow','scikit-learn','deepfake_nb','system','cpu','cores','threads','processes','device'} == set(r['environment'])
    assert all(r['environment'].values()) and r['pictures']['n']==80 and r['seed']==0
    assert r['licences']['data']=='not stated' and set(r['licences']['weights'])=={'cnn2','resnet18','spectrum'}
    assert write_receipt(trained) == r, 'it says nothing of the time, so it can be written again'

def test_the_receipt_names_the_command_and_no_folder(cli, faces, tmp_path):
    out = tmp_path/'secret'/'run'
    assert cli('compare', '--real', faces/'real', '--fake', faces/'fake', '--models', 'cnn1', '--no-audit', f'--out={out}', *SMALL)[0] == 0
    r = read_json(out/'receipt.json')
    assert r['command'].startswith(f'deepfake-nb compare --real {faces}/real --fake') and '--out=.../run' in r['command'] and 'secret' not in json.dumps(r)
    assert v.verify(out, quiet)['ok']

@pytest.mark.parametrize('args,shown', [(['--out','/home/a/run'], '--out .../run'), (['--out','run'], '--out run'), (['--weights=/home/a/w'], '--weights=.../w'),
    (['--real','/data'], '--real /data'), (['--real','/dat'], '--real .../dat'), (['--real','/data/a.jpg'], '--real /data/a.jpg'), (['a\nb\x1b'], r"'a\nb\x1b'")])
def test_the_command_is_harmless(args, shown):
    import deepfake_nb.cli
    assert _command(['compare',*args], ['/data/a.jpg']) == f'deepfake-nb compare {shown}'

def test_the_split_is_named_by_content(trained, run):
    "The same pictures in other folders give the same checksum, another split another one"
    split = read_json(trained/'receipt.json')['pictures']['split']
    table = pd.read_csv(run/'table.csv')
    table.assign(path='/elsewhere'+table.path).to_csv(run/'table.csv', index=False)
    assert write_receipt(run)['pictures']['split'] == split
    table.assign(split=table.split[::-1].to_numpy()).to_csv(run/'table.csv', index=False)
    assert write_receipt(run)['pictures']['split'] != split

# A run that is whole

def test_a_moved_run_agrees(run):
    lines = []
    res = v.verify(run, lines.append)
    assert res['ok'] and not res['faults'] and not res['differs'] and lines[-1]=='everything agrees'
    assert res['pictures']==dict(n=80, same=80) and set(res['models'])=={'cnn2','resnet18','spectrum'}
    for r in res['models'].values(): assert r['rows']==r['scored']==16 and r['largest']<1e-4 and r['scores'] and r['within']['0.0001']==16
    json.dumps(res, allow_nan=False)

def test_other_versions_explain_but_are_no_fault(run):
    lines = []
    seal(run, environment=read_json(run/'receipt.json')['environment']|dict(torch='0.1'))
    res = v.verify(run, lines.append)
    assert res['ok'] and res['differs']['torch'][0]=='0.1' and any(o.startswith('torch: 0.1 in the receipt, ') for o in lines)

def test_several_seeds(faces, tmp_path):
    from deepfake_nb.comparison import compare
    from deepfake_nb.settings import Settings
    from deepfake_nb.sources import make_table
    out = tmp_path/'run'
    settings = Settings(['spectrum'], size=32, batch_size=16, weights='none', seeds=[0,1])
    compare(make_table([faces/'real'], [faces/'fake']), out, settings, log=quiet, audit=False)
    res = v.verify(out, quiet)
    assert res['ok'] and set(res['seeds'])=={'seed0','seed1'} and res['seeds']['seed1']['models']['spectrum']['scored']==16
    assert read_json(out/'receipt.json')['seeds']==[0,1] and read_json(out/'seed1'/'receipt.json')['seed']==1
    df = pd.read_csv(out/'comparison.csv')
    df.assign(valid_auc=.99).to_csv(out/'comparison.csv', index=False)
    write_receipt(out)
    assert faults(out) == {('scores','comparison.csv')}, 'the means are checked'
    (out/'seed1'/'spectrum'/'metrics.json').unlink()
    write_json(out/'seed0'/'receipt.json', read_json(out/'seed0'/'receipt.json')|dict(seed=7))
    assert {('file','seed1/spectrum/metrics.json'),('run','seed1/spectrum'),('file','seed0/receipt.json'),('run','seed0')} <= faults(out)

# What is named

@pytest.mark.parametrize('split,scored', [('valid',15),('train',16)])
def test_the_changed_picture(run, pictures, split, scored):
    with meanwhile(pictures.path[pictures.split==split].iloc[0], resave) as path:
        res = v.verify(run, quiet)
    assert [(o['what'],o['name'],o['why']) for o in res['faults']] == [('picture',path,'has changed')]
    assert {o['scored'] for o in res['models'].values()} == {scored}, 'a changed picture is not scored'

def test_the_missing_picture(run, pictures):
    with meanwhile(pictures.path[3], os.remove) as path:
        assert [(o['name'],o['why']) for o in v.verify(run, quiet)['faults']] == [(path,'is missing')]

def test_a_machine_without_the_pictures(run, faces):
    gone = faces.with_name('gone')
    faces.rename(gone)
    lines = []
    try: res = v.verify(run, lines.append)
    finally: gone.rename(faces)
    assert not res['ok'] and len(res['faults'])==80 and {o['why'] for o in res['faults']}=={'is missing'}
    assert all(o['largest'] is None and o['scores'] for o in res['models'].values()), 'what can be checked is checked'
    assert '... and 70 more' in lines and len(lines)<20

@pytest.mark.parametrize('name', ['cnn2/model.safetensors','cnn2/history.csv','cnn2/config.json','report.html','files.csv'])
def test_the_changed_file(run, name):
    data = bytearray((run/name).read_bytes())
    data[-3] ^= 1
    (run/name).write_bytes(data)
    assert ('file',name) in faults(run)

@pytest.mark.parametrize('name', ['cnn2/model.safetensors','cnn2/predictions.csv','table.csv','files.csv','comparison.csv','resnet18/config.json'])
def test_the_missing_file(run, name):
    (run/name).unlink()
    assert ('file',name) in faults(run)

def test_other_weights_with_a_good_checksum(run):
    "Weights that were exchanged, and a receipt that was written again: only the answers show it"
    from deepfake_nb.features import _read_tensors,_save_tensors
    file = run/'cnn2'/'model.safetensors'
    tensors,meta = _read_tensors(file, '')
    _save_tensors(file, {k:-o if o.is_floating_point() and 'weight' in k else o for k,o in tensors.items()}, meta)
    write_receipt(run)
    found = faults(run)
    assert found and {what for what,_ in found}=={'row'} and all(o.startswith('cnn2/predictions.csv, line ') for _,o in found)

def edit(run, model, f):
    "Change the predictions of a model: `f` changes them in place, or returns others"
    path = run/model/'predictions.csv'
    df = pd.read_csv(path)
    other = f(df)
    (df if other is None else other).to_csv(path, index=False)

def test_the_changed_row(run):
    def shift(df): df.loc[5,'prob_fake'] = abs(df.prob_fake[5]-.001)
    edit(run, 'resnet18', shift)
    found = faults(run)
    assert {o for o in found if o[0]=='row'} == {('row','resnet18/predictions.csv, line 7')}
    assert {('file','resnet18/predictions.csv'),('scores','resnet18/metrics.json'),('scores','comparison.csv, row resnet18')} <= found

def test_a_row_far_off_with_a_new_receipt(run):
    def turn(df): df.loc[2,'prob_fake'] = 1-df.prob_fake[2] if abs(df.prob_fake[2]-.5)>.05 else .9
    edit(run, 'cnn2', turn)
    write_receipt(run)
    assert ('row','cnn2/predictions.csv, line 4') in faults(run)

def test_the_row_with_another_label(run):
    def turn(df): df.loc[9,'label'] = 1-df.label[9]
    edit(run, 'cnn2', turn)
    assert {o for o in faults(run) if o[0]=='row'} == {('row','cnn2/predictions.csv, line 11')}

@pytest.mark.parametrize('change', [lambda d: d.drop(index=4), lambda d: d.assign(prob_fake='many'), lambda d: d.assign(split='x'),
    lambda d: d.assign(label=3), lambda d: d.assign(path=7), lambda d: d.drop(columns='label'), lambda d: d.assign(prob_fake=d.prob_fake.where(d.index>0, np.inf))])
def test_predictions_of_any_kind_are_a_fault(run, change):
    edit(run, 'cnn2', change)
    found = faults(run)
    assert ('file','cnn2/predictions.csv') in found and len(found)>1

def test_edited_scores(run):
    m = read_json(run/'cnn2'/'metrics.json')
    m['valid']['auc'] = .999
    write_json(run/'cnn2'/'metrics.json', m)
    write_receipt(run)
    res = v.verify(run, quiet)
    assert [(o['name'],o['why']) for o in res['faults']] == [('cnn2/metrics.json','not what the predictions give: valid auc')] and not res['models']['cnn2']['scores']

def test_edited_comparison(run):
    df = pd.read_csv(run/'comparison.csv')
    df.loc[df.model=='cnn2','valid_loss'] -= .01
    df.to_csv(run/'comparison.csv', index=False)
    write_receipt(run)
    assert faults(run) == {('scores','comparison.csv, row cnn2')}
    df[df.model!='cnn2'].to_csv(run/'comparison.csv', index=False)
    assert ('run','comparison.csv') in faults(run)

def test_a_probability_of_zero_is_an_answer(run, monkeypatch):
    zero = SimpleNamespace(predict=lambda paths: [SimpleNamespace(prob_fake=0., error=None) for _ in paths])
    monkeypatch.setattr(v, 'Detector', SimpleNamespace(load=lambda folder: zero))
    assert v.verify(run, quiet)['models']['cnn2']['scored'] == 16

# Receipts that cannot be used

def test_a_run_of_before_has_no_receipt(run):
    (run/'receipt.json').unlink()
    with pytest.raises(InputError, match="no receipt.json in .*: made by a version before it; compare it again$"): v.verify(run, quiet)
    with pytest.raises(InputError, match='no run'): v.verify(run/'none', quiet)

def test_an_edited_receipt(run):
    r = read_json(run/'receipt.json')
    for change in (dict(command='deepfake-nb compare --seed 3'),dict(note='another entry'),dict(files=r['files']|{'table.csv':'0'*64})):
        write_json(run/'receipt.json', r|change)
        with pytest.raises(InputError, match='was edited'): v.verify(run, quiet)

@pytest.mark.parametrize('k,value', [('files',{'../x':'0'*64}), ('files',{'a/../x':'0'*64}), ('files',{'/etc/passwd':'0'*64}), ('files',{'a/b/c':'0'*64}), ('files',{'a':'0'*63}), ('files',['a']),
    ('files',None), ('seeds','0'), ('seeds',['../x']), ('environment',{'torch':[1]}), ('environment',3), ('command',None), ('licences',{'data':[[]]}), ('pictures',{'n':[[]]}), ('sha256','0'),
    ('settings',1), ('more',1)])
def test_entries_of_the_wrong_kind(run, k, value):
    seal(run, **{k:value}) if k!='sha256' else write_json(run/'receipt.json', read_json(run/'receipt.json')|{k:value})
    with pytest.raises(InputError, match='damaged|edited'): v.verify(run, quiet)

@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '"a"', '{"sha256": NaN}', '['*100_000, '{"a":'*500+'1'+'}'*500, '\x00', '\ud800'])
def test_a_damaged_receipt(run, text):
    (run/'receipt.json').write_bytes(text.encode('utf-8', 'surrogatepass'))
    with pytest.raises(InputError) as e: v.verify(run, quiet)
    assert len(str(e.value).splitlines()) == 1

def test_a_receipt_with_a_missing_entry(run):
    for k in read_json(run/'receipt.json'):
        r = read_json(run/'receipt.json')
        del r[k]
        if 'sha256' in r: r['sha256'] = _sum_of({a:b for a,b in r.items() if a!='sha256'})
        other = run.with_name(f'without_{k}')
        write_json(other/'receipt.json', r)
        with pytest.raises(InputError, match='damaged|edited'): v.verify(other, quiet)

def test_nothing_is_unpickled(run, tmp_path):
    class Bomb:
        def __reduce__(self): return os.mkdir,(str(tmp_path/'exploded'),)
    for name in ('cnn2/model.safetensors','cnn2/config.json','comparison.csv'): (run/name).write_bytes(pickle.dumps(Bomb()))
    assert {('file','cnn2/model.safetensors'),('run','cnn2'),('run','comparison.csv')} <= faults(run) and not (tmp_path/'exploded').exists()

# The command

def test_verify_as_a_command(cli, run):
    code,out,err = cli('verify', run)
    assert (code,err)==(0,'') and out.splitlines()[-1]=='everything agrees' and 'cnn2: 16 of 16 rows' in out
    (run/'comparison.md').write_text('')
    code,out,err = cli('verify', run)
    assert code==2 and 'file comparison.md: has changed' in out and len(err.strip().splitlines())==1 and err.startswith('deepfake-nb: 1 faults')
    code,out,err = cli('verify', run, '--json')
    res = json.loads(out)
    assert code==2 and not res['ok'] and res['faults']==[dict(what='file', name='comparison.md', why='has changed')]
    (run/'receipt.json').unlink()
    code,out,err = cli('verify', run)
    assert (code,out)==(2,'') and 'no receipt.json' in err and len(err.strip().splitlines())==1

# Scores of other detectors

def table(folder, name, p, label=None, path=None):
    "A CSV of scores"
    df = pd.DataFrame(dict(path=path or [f'p{i}.jpg' for i in range(len(p))], prob_fake=p))
    if label is not None: df['label'] = label
    df.to_csv(folder/name, index=False)
    return folder/name

def by_pairs(y, p):
    "AUCs and their covariance, pair by pair (DeLong et al. 1988)"
    wins = [(s[y==1][:,None]>s[y==0])+.5*(s[y==1][:,None]==s[y==0]) for s in p]
    m,n = wins[0].shape
    return [w.mean() for w in wins], np.cov([w.mean(1) for w in wins])/m + np.cov([w.mean(0) for w in wins])/n

@pytest.mark.parametrize('digits', [1,8])
def test_delong_is_what_the_pairs_give(digits):
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([0,1], [23,41]))
    p = np.round(rng.normal(size=(4,64))+y*np.array([[0],[.5],[1],[2]]), digits)
    (a,cov),(b,want) = v.delong(y, p),by_pairs(y, p)
    assert a==pytest.approx(b) and cov==pytest.approx(want)
    assert a==pytest.approx([mannwhitneyu(s[y==1], s[y==0]).statistic/23/41 for s in p])

def test_delong_of_many_pictures_needs_little_memory():
    y = np.repeat([0,1], 100_000)
    a,cov = v.delong(y, np.random.default_rng(0).normal(size=(2,200_000))+y)
    assert a==pytest.approx([norm.cdf(.5**.5)]*2, abs=.01) and 0<cov[0,0]<1e-5

def test_the_test_errs_as_often_as_it_says():
    rng,y,p = np.random.default_rng(3),np.repeat([0,1], 80),[]
    for _ in range(400):
        a,c = v.delong(y, rng.normal(size=160)+y+.7*rng.normal(size=(2,160)))
        p.append(v._p_value(a[0]-a[1], c[0,0]+c[1,1]-2*c[0,1]))
    assert .02 < np.mean(np.array(p)<.05) < .085 and .4 < np.mean(p) < .6

@pytest.mark.parametrize('ps,want', [([.01],[.01]), ([.01,.04,.03],[.03,.06,.06]), ([.04,.01],[.04,.02]), ([.6,.7],[1,1]), ([.01,.01,.9],[.03,.03,.9])])
def test_holm(ps, want): assert v.holm(ps)==pytest.approx(want)

def test_values_by_hand(tmp_path):
    y,a,b = [0,0,0,1,1,1],[.1,.2,.6,.3,.8,.9],[.1,.2,.3,.7,.8,.9]
    res = v.compare_scores([table(tmp_path, 'a.csv', a, y),table(tmp_path, 'b.csv', b)])
    first,second = res['detectors']
    assert (first['auc'],second['auc'])==pytest.approx((8/9,1)) and (first['accuracy'],second['accuracy'])==pytest.approx((4/6,1))
    assert first['loss']==pytest.approx(nll(y, a)) and (res['n_real'],res['n_fake'])==(3,3) and res['left_out']==dict(a=0, b=0)
    pair, = res['pairs']
    _,c = by_pairs(np.array(y), np.array([a,b]))
    sd = (c[0,0]+c[1,1]-2*c[0,1])**.5
    assert pair['auc']==pytest.approx(-1/9) and pair['p']==pair['p_holm']==pytest.approx(2*norm.sf(1/9/sd))
    assert first['auc_low']==pytest.approx(8/9-1.959964*c[0,0]**.5) and second['auc_high']==1
    assert pair['auc_low']<=pair['auc']<=pair['auc_high'] and pair['loss_mean']==pytest.approx(nll(y, a)-nll(y, b))

def test_a_change_of_scale_is_no_difference_in_auc(tmp_path):
    rng,y = np.random.default_rng(0),np.repeat([0,1], 40)
    p = 1/(1+np.exp(-rng.normal(size=80)-y))
    pair, = v.compare_scores([table(tmp_path, 'a.csv', p, y),table(tmp_path, 'b.csv', p**3)])['pairs']
    assert (pair['auc'],pair['auc_low'],pair['auc_high'],pair['p'])==(0,0,0,1), 'the bootstrap is paired'
    assert pair['loss_low']<pair['loss_mean']<pair['loss_high']

def test_three_detectors_and_holm(tmp_path):
    rng,y = np.random.default_rng(0),np.repeat([0,1], 60)
    shared = rng.normal(size=120)
    p = np.array([1/(1+np.exp(-k*(y-.5)-shared-rng.normal(size=120))) for k in range(3)])
    res = v.compare_scores([table(tmp_path, f'{k}.csv', o, y) for k,o in enumerate(p)])
    a,c = by_pairs(y, p)
    for r,(i,j) in zip(res['pairs'], [(0,1),(0,2),(1,2)]): assert r['p']==pytest.approx(2*norm.sf(abs(a[i]-a[j])/(c[i,i]+c[j,j]-2*c[i,j])**.5))
    assert [(r['a'],r['b']) for r in res['pairs']]==[('0','1'),('0','2'),('1','2')]
    assert [r['p_holm'] for r in res['pairs']]==pytest.approx(v.holm([r['p'] for r in res['pairs']])) and json.dumps(res, allow_nan=False)

def test_only_shared_pictures_count(tmp_path):
    a = table(tmp_path, 'a.csv', [.1,.2,.8,.9,.5], [0,0,1,1,1], list('abcde'))
    b = table(tmp_path, 'b.csv', [.9,.3,.2,.7,.6,.5], None, ['d','./b','a','c','x','y'])
    res = v.compare_scores([a,b])
    assert (res['n_real'],res['n_fake'])==(2,2) and res['left_out']==dict(a=1, b=2) and [r['auc'] for r in res['detectors']]==[1,1]
    assert 'left out: 2 of b' in v.compare_text(res)

def test_labels_from_a_table(tmp_path):
    p = [.1,.2,.8,.9]
    a,b = table(tmp_path, 'a.csv', p),table(tmp_path, 'b.csv', p[::-1])
    pd.DataFrame(dict(path=[f'p{i}.jpg' for i in range(4)], label=['real','real','fake','fake'])).to_csv(tmp_path/'labels.csv', index=False)
    assert [r['auc'] for r in v.compare_scores([a,b], tmp_path/'labels.csv')['detectors']]==[1,0]

def test_the_predictions_of_a_run(trained):
    res = v.compare_scores([trained/m/'predictions.csv' for m in ('cnn2','spectrum')])
    for r,m in zip(res['detectors'], ('cnn2','spectrum')):
        valid = read_json(trained/m/'metrics.json')['valid']
        assert r['name']==f'{m}/predictions' and all(r[k]==pytest.approx(valid[k]) for k in ('auc','accuracy','loss'))

def test_relative_paths_are_those_of_the_folder(tmp_path, faces):
    "One file names the pictures from its own folder, the other by their whole paths"
    paths = sorted(faces.rglob('*.jpg'))[::9]
    y = [int('fake' in o.parts) for o in paths]
    p = list(np.linspace(.1, .9, len(paths)))
    a = table(faces.parent, 'relative.csv', p, y, [str(o.relative_to(faces.parent)) for o in paths])
    b = table(tmp_path, 'whole.csv', p, None, list(map(str, paths)))
    try: assert v.compare_scores([a,b])['left_out']==dict(relative=0, whole=0)
    finally: a.unlink()

GOOD = dict(path=list('abcd'), prob_fake=[.1,.2,.8,.9], label=[0,0,1,1])

@pytest.mark.parametrize('change,words', [
    (dict(prob_fake=None), 'no column prob_fake'), (dict(path=None), 'no column path'), (dict(prob_fake=[.1,.2,.8,np.nan]), "line 5: prob_fake ''"),
    (dict(prob_fake=[.1,'nan',.8,.9]), "line 3: prob_fake 'nan'"), (dict(prob_fake=[.1,.2,1.1,.9]), 'line 4'), (dict(prob_fake=[-.1,.2,.8,.9]), 'line 2'), (dict(prob_fake=['x',.2,.8,.9]), "prob_fake 'x'"),
    (dict(prob_fake=[.1,.2,np.inf,.9]), 'line 4'), (dict(path=list('abca')), "line 5: 'a' is there twice"), (dict(path=['a','./a','b','c']), 'twice'), (dict(path=['a','b',' ','d']), 'line 4: no path'),
    (dict(path=list('wxyz')), 'no picture is in all files'), (dict(label=[0,1,1,1]), "label of 'b'"), (dict(label=[0,0,1,2]), "label '2'"), (dict(path=list('abxy'), label=[0,0,1,1]), '2 real and 0 fake'),
    (dict(path=list('abcx')), '2 real and 1 fake')])
def test_bad_scores_are_one_line(tmp_path, cli, change, words):
    a,b = tmp_path/'a.csv',tmp_path/'b.csv'
    pd.DataFrame(GOOD).to_csv(a, index=False)
    pd.DataFrame({k:o for k,o in (GOOD|change).items() if o is not None}).to_csv(b, index=False)
    for files in ((a,b),(b,a)):
        code,out,err = cli('compare-scores', *files)
        line, = err.strip().splitlines()
        assert (code,out)==(2,'') and words in line, line

@pytest.mark.parametrize('args,words', [(['a.csv'],'two or more'), (['a.csv','a.csv'],'named twice'), (['a.csv','none.csv'],'none.csv'), (['a.csv','empty.csv'],'empty.csv'), (['a.csv','head.csv'],'no rows'),
    (['bare.csv','bare2.csv'],'4 of 4 shared pictures have no label'), (['bare.csv','bare2.csv','--labels','bare.csv'],'no column label'), (['one.csv','bare.csv'],'4 real and 0 fake'), (['a.csv','.'],'cannot read')])
def test_bad_calls_are_one_line(tmp_path, cli, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    df = pd.DataFrame(GOOD)
    for name,o in dict(a=df, bare=df.drop(columns='label'), bare2=df.drop(columns='label'), one=df.assign(label=0), head=df[:0]).items(): o.to_csv(f'{name}.csv', index=False)
    Path('empty.csv').write_text('')
    code,out,err = cli('compare-scores', *args)
    line, = err.strip().splitlines()
    assert (code,out)==(2,'') and words in line, line

def test_compare_scores_as_a_command(cli, tmp_path):
    a,b = table(tmp_path, 'a.csv', [.1,.6,.4,.9], [0,0,1,1]),table(tmp_path, 'b.csv', [.1,.2,.8,.9])
    code,out,err = cli('compare-scores', a, b)
    assert (code,err)==(0,'') and out.splitlines()[1].startswith('a: AUC 0.7500 [') and 'a less b: AUC -0.2500' in out
    res = json.loads(cli('compare-scores', a, b, '--json')[1])
    assert set(res)=={'n_real','n_fake','left_out','detectors','pairs'} and res['pairs'][0]['auc']==-.25
