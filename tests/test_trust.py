"The audit names a planted leak and no other; the mend mends it; nothing that means nothing is told."
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image,ImageFilter

from deepfake_nb import trust
from deepfake_nb.core import InputError
from deepfake_nb.data import make_table
from deepfake_nb.faces import make_sample
from deepfake_nb.images import find_images

@pytest.fixture(scope='module')
def portraits(tmp_path_factory):
    "Real pictures alone"
    return find_images(make_sample(tmp_path_factory.mktemp('p')/'s', 120, seed=7)/'real')

def plant(portraits, out, change):
    "Half of `portraits` as they are, half called fake and saved by `change(img, stem) -> path`"
    for k in ('real','fake'): (out/k).mkdir(parents=True)
    for i,(o,fake) in enumerate(zip(portraits, np.random.default_rng(3).permutation(len(portraits))%2)):
        img,stem = Image.open(o),out/('fake' if fake else 'real')/f'{i:05}'
        if fake: change(img, stem)
        else: img.save(f'{stem}.jpg', quality=90)
    return out

def saved(ext='jpg', change=lambda o: o, **kw): return lambda img, stem: change(img).save(f'{stem}.{ext}', **{**(dict(quality=90) if ext=='jpg' else {}), **kw})

def padded(img, stem):
    img.save(f'{stem}.jpg', quality=90)
    with open(f'{stem}.jpg', 'ab') as f: f.write(bytes(800))

def camera(): exif = Image.Exif(); exif[0x010F] = 'Camera'; return exif

def framed(o): o = o.copy(); o.paste((255,255,255), (0,0,2,o.height)); return o

PLANTS = {'file size':padded, 'dimensions':saved(change=lambda o: o.resize((48,48), Image.Resampling.LANCZOS)), 'format':saved('png'), 'JPEG quality':saved(quality=75), 'JPEG subsampling':saved(subsampling='4:4:4'), 'EXIF':saved(exif=camera()),
    'colour profile':saved(icc_profile=bytes(300)), 'file name':lambda img, stem: img.save(stem.with_name(f'seed{stem.name}.jpg'), quality=90), 'mean colour':saved(change=lambda o: o.point([min(255, v+c) for c in (0,50,0) for v in range(256)])),
    'sharpness':saved(change=lambda o: o.filter(ImageFilter.GaussianBlur(1.5))), 'border':saved(change=framed)}

@pytest.mark.parametrize('kind', PLANTS)
def test_names_the_planted_leak_and_no_other(kind, portraits, tmp_path):
    d = plant(portraits, tmp_path/'d', PLANTS[kind])
    res = trust.audit(make_table([d/'real'], [d/'fake']))
    assert {o['name'] for o in res['probes'] if o['verdict']=='leaks'} == {kind} and res['verdict']=='leaks', [o for o in res['probes'] if o['verdict']!='clean']

def test_nothing_planted_is_clean(portraits, tmp_path):
    d = plant(portraits, tmp_path/'d', saved())
    res = trust.audit(make_table([d/'real'], [d/'fake']))
    assert not [o for o in res['probes'] if o['verdict']=='leaks']
    assert res == trust.audit(make_table([d/'real'], [d/'fake'])), 'the same pictures, the same audit'

def test_equalise_takes_the_codec_away(portraits, tmp_path, cli):
    d = plant(portraits, tmp_path/'d', saved('png', lambda o: o.resize((56,56))))
    ours = '--real',d/'real','--fake',d/'fake','--json'
    before,after = (json.loads(cli('audit', *ours, *more)[1]) for more in ((),('--equalise',)))
    assert before['verdict']=='leaks'
    assert {o['verdict'] for o in after['probes'] if o['name'] in ('file size','dimensions','format','JPEG quality','JPEG subsampling','EXIF','colour profile','file name')} == {'clean'}

def test_command_line(faces, cli, tmp_path):
    code,out,_ = cli('audit', '--real', faces/'real', '--fake', faces/'fake', '--json')
    res = json.loads(out)
    assert code==0 and set(res)=={'verdict','probes'} and res['verdict'] in ('leaks','weak','clean')
    assert {frozenset(o) for o in res['probes']} == {frozenset(('name','auc','low','high','verdict','mend'))}
    code,out,_ = cli('audit', '--real', faces/'real', '--fake', faces/'fake')
    assert code==0 and out.startswith('verdict: ') and len(out.splitlines())==1+len(res['probes'])
    few = pd.DataFrame(dict(path=[*map(str, find_images(faces/'real')[:5]),*map(str, find_images(faces/'fake')[:5])], label=['real']*5+['fake']*5))
    few.to_csv(tmp_path/'few.csv', index=False)
    code,out,err = cli('audit', '--real', tmp_path/'few.csv', '--fake', tmp_path/'few.csv')
    assert (code,out)==(2,'') and 'fewer tell nothing' in err and err.count('\n')==1

def test_groups_that_cannot_be_divided(faces):
    t = make_table([faces/'real'], [faces/'fake'])
    with pytest.raises(InputError, match='fewer than 5 groups'): trust.audit(t.assign(group=t.label.map({0:'a', 1:'b'})))

def test_robustness_of_scores_that_mean_nothing(faces):
    t = make_table([faces/'real'], [faces/'fake'])
    with pytest.raises(InputError, match='same score'): trust.robustness(lambda o: [.5]*len(o), t)
    with pytest.raises(InputError, match='nan'): trust.robustness(lambda o: [float('nan')]*len(o), t)

def test_evaluate_under_changes(trained, faces, cli):
    code,out,_ = cli('evaluate', trained, '--real', faces/'real', '--fake', faces/'fake', '--robustness', '--json')
    res = json.loads(out)
    rows = pd.DataFrame(res['robustness'])
    assert code==0 and rows['transform'][0]=='clean' and set(rows['transform'][1:])==set(trust.TRANSFORMS)
    assert rows.auc[0]==pytest.approx(res['auc']) and rows.false_alarms.between(0, 1).all()

def test_auc_interval_holds_the_auc():
    y,s = np.repeat([0,1], 50),np.random.default_rng(0).normal(np.repeat([0,1.], 50))
    from sklearn.metrics import roc_auc_score
    a,low,high = trust.auc_interval(y, s)
    assert a==pytest.approx(roc_auc_score(y, s)) and low<a<high
    wide = trust.auc_interval(y, s, .999)
    assert wide[1]<low and high<wide[2]
