"Why an answer is what it is: signed maps, spectra, one figure, the worst mistakes."
import json,shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from deepfake_nb import explain
from deepfake_nb.core import InputError,PLOT_MARK,cache_dir
from deepfake_nb.backbones import create_model
from deepfake_nb.detector import Detector
from deepfake_nb.explain import gradcam,map_layer,mean_spectra,mistakes,picture_map,plot_explanation,plot_mistakes,randomise,rank_correlation,read_pixels,spectra,to_input
from deepfake_nb.runs import load_model

@pytest.fixture
def run(trained, tmp_path): return shutil.copytree(trained, tmp_path/'a run')

@pytest.fixture
def face(faces): return sorted((faces/'fake').rglob('*.jpg'))[0]

def brightness(sign):
    "A network that calls bright pictures fake (sign 1) or real (-1)"
    conv,head = nn.Conv2d(3, 1, 1),nn.Linear(64, 1)
    for p,v in ((conv.weight,1/3),(conv.bias,0.),(head.weight,sign/64),(head.bias,0.)): nn.init.constant_(p, v)
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head).eval()

@pytest.mark.parametrize('sign', (1,-1))
def test_the_map_points_at_the_place_and_has_the_sign(sign):
    x = torch.zeros(1, 3, 8, 8); x[...,:4,4:] = 1.
    cam = gradcam(brightness(sign), x)[0]*sign
    assert (cam[:4,4:]>0).all() and cam[4:].abs().max()==0 and cam[:,:4].abs().max()==0

@pytest.mark.parametrize('name', ['cnn1','densenet121','xception','resnet50','tf_efficientnet_lite0','convnext_atto','vit_tiny_patch16_224','swin_tiny_patch4_window7_224','swinv2_cr_tiny_ns_224','xcit_nano_12_p8_224','cait_xxs24_224','hrnet_w18_small','mobilevit_xxs','mixer_s16_224'])
def test_every_network_has_a_map(name):
    torch.manual_seed(0)
    size = 224 if 'mixer' in name else 64
    model = create_model(name, size).eval()
    cam = gradcam(model, torch.rand(2, 3, size, size))
    assert cam.shape==(2,size,size) and torch.isfinite(cam).all() and (cam.flatten(1).std(1)>0).all()

def test_the_model_is_left_as_it_was(run, face):
    model,config = load_model(run/'resnet18')
    x = to_input(read_pixels(face, config)[None], model)
    before = model(x)
    gradcam(model, x); randomise(model)
    assert torch.equal(before, model(x))
    assert not map_layer(model, 32)[0]._forward_hooks and x.grad is None

def test_shuffled_weights_change_the_map(run, faces):
    model,config = load_model(run/'resnet18')
    x = to_input(np.stack([read_pixels(o, config) for o in sorted((faces/'real').iterdir())[:6]]), model)
    cam = gradcam(model, x)
    assert np.allclose(rank_correlation(cam, gradcam(model, x)), 1)
    other = [rank_correlation(cam, gradcam(randomise(model, seed=s), x)).mean() for s in range(3)]
    assert abs(np.mean(other))<.5 and len(set(other))==3

def test_a_figure_for_every_model(cli, run, face, tmp_path):
    for name in ('cnn2','resnet18','spectrum'):
        out = tmp_path/f'{name} wärum.png'
        code,said,err = cli('explain', face, '--model', run/name, '--out', out)
        a = Detector.load(run/name).predict(face)[0]
        assert code==0 and said.strip()==f'{face}: {a.verdict}, {a.prob_fake:.1%} fake' and err.startswith('deepfake-nb: wrote')
        assert Image.open(out).size[0]==(960 if name=='spectrum' else 1440)
    assert cli('explain', face, '--model', run, '--out', tmp_path/'best.png')[0]==0

def tree(folder): return {str(o.relative_to(folder)):(o.stat().st_mtime_ns, o.read_bytes()) for o in folder.rglob('*') if o.is_file()}

def test_a_run_is_only_read(cli, run, face, tmp_path):
    before = tree(run)
    assert cli('explain', face, '--model', run, '--out', tmp_path/'a.png')[0]==0
    plot_mistakes(run/'cnn2'); mean_spectra(run/'cnn2')
    assert tree(run)==before

def test_mean_spectra_are_computed_once(run, monkeypatch):
    means = mean_spectra(run/'resnet18')
    df = pd.read_csv(run/'table.csv').query('split=="train" and label==1')
    config = load_model(run/'resnet18')[1]
    assert np.allclose(means.fake, spectra(np.stack([read_pixels(o, config) for o in df.path])).mean(0), atol=1e-4)
    monkeypatch.setattr(explain, '_compute_means', None)
    assert np.allclose(mean_spectra(run/'resnet18'), means)
    kept, = {o for o in (cache_dir()/'spectra').rglob('spectra.csv') if np.allclose(pd.read_csv(o), means)}
    kept.write_text('damaged')
    monkeypatch.undo()
    assert np.allclose(mean_spectra(run/'resnet18'), means)

def test_training_pictures_that_are_gone(run, face):
    df = pd.read_csv(run/'table.csv')
    df.assign(path='gone/'+df.path).to_csv(run/'table.csv', index=False)
    assert mean_spectra(run/'cnn2') is None
    model,config = load_model(run/'cnn2')
    fig = plot_explanation(read_pixels(face, config), model, .5, 'uncertain')
    assert any('not at hand' in ax.get_title() for ax in fig.axes)

def test_a_name_in_a_config_is_no_path(cli, run, face, tmp_path):
    config = json.loads((run/'cnn2'/'config.json').read_text())
    (run/'cnn2'/'config.json').write_text(json.dumps(config|dict(model='../victim')))
    cli('explain', face, '--model', run/'cnn2', '--out', tmp_path/'a.png')
    assert not list(tmp_path.rglob('*victim*'))

def test_many_ask_for_a_map_at_once(run, faces):
    model,config = load_model(run/'resnet18')
    xs = [to_input(read_pixels(o, config)[None], model) for o in sorted(faces.rglob('*.jpg'))[:6]]*4
    alone = [gradcam(model, x) for x in xs[:6]]*4
    with ThreadPoolExecutor(6) as pool: together = list(pool.map(lambda x: gradcam(model, x), xs))
    assert all(torch.allclose(a, b, atol=1e-6) for a,b in zip(alone, together))

def test_a_network_without_a_map(run, face, tmp_path):
    model,pixels = create_model('crossvit_tiny_240', 240).eval(),np.zeros((240,240,3), np.uint8)
    assert picture_map(pixels, model) is None
    fig = plot_explanation(pixels, model, .7, 'fake')
    assert len(fig.axes)==3 and any('no map' in t.get_text() for ax in fig.axes for t in ax.texts)

def test_mistakes_whose_pictures_cannot_be_read(run, tmp_path):
    (tmp_path/'text.jpg').write_text('no picture')
    df = pd.read_csv(run/'cnn2'/'predictions.csv').assign(prob_fake=lambda d: 1.-d.label)
    df.loc[::2,'path'] = str(tmp_path/'text.jpg'); df.loc[1,'path'] = str(tmp_path); df.loc[3,'path'] = str(tmp_path/'absent.jpg')
    df.to_csv(run/'cnn2'/'predictions.csv', index=False)
    n = len(df)-len(df[::2])-2
    assert len(plot_mistakes(run/'cnn2', 99).axes)==2*n

def test_a_figure_says_what_it_is(cli, run, face, tmp_path):
    cli('explain', face, '--model', run, '--out', tmp_path/'a.png')
    assert Image.open(tmp_path/'a.png').info['Software']==PLOT_MARK

def test_pictures_are_equalised_as_in_training(face):
    config = dict(size=32, recipe=dict(resample='bilinear'))
    plain,rough = (read_pixels(face, config|dict(equalise=o)) for o in (None,dict(side=24, quality=20)))
    assert plain.shape==rough.shape and (plain!=rough).any()

def test_mistakes_are_wrong_and_the_surest_come_first(run):
    for name in ('cnn2','spectrum'):
        df = mistakes(run/name)
        assert ((df.prob_fake>=.5)!=df.label).all() and (df.prob_fake-.5).abs().is_monotonic_decreasing
        assert len(plot_mistakes(run/name, 3).axes)==2*max(min(3, len(df)), 1)
    pd.read_csv(run/'cnn2'/'predictions.csv').assign(prob_fake=lambda d: d.label.astype(float)).to_csv(run/'cnn2'/'predictions.csv', index=False)
    assert 'no mistakes' in plot_mistakes(run/'cnn2').axes[0].get_title()

def test_bad_input_is_one_line_and_leaves_nothing(cli, run, face, tmp_path):
    (tmp_path/'text.jpg').write_text('no picture'); (tmp_path/'empty.jpg').touch(); (tmp_path/'m.onnx').touch(); (tmp_path/'folder.png').mkdir(); (tmp_path/'broken.png').write_bytes(b'\x89PNG\r\n\x1a\n'+b'0'*40)
    mine = shutil.copy(face, tmp_path/'mine.png')
    before = set(tmp_path.rglob('*'))
    for image,model,out in [(tmp_path/'absent.jpg',run,'a.png'), (tmp_path/'text.jpg',run,'a.png'), (tmp_path/'empty.jpg',run,'a.png'), (tmp_path/'broken.png',run,'a.png'), (tmp_path,run,'a.png'),
            (face,run,'a.jpg'), (face,run,'folder.png'), (face,run,'text.jpg/a.png'), (face,tmp_path/'m.onnx','a.png'), (face,tmp_path/'nowhere','a.png'), (face,tmp_path/'folder.png','a.png'), (mine,run,'mine.png'), ('n'*300,run,'a.png'), (face,run,'n'*300+'.png')]:
        code,said,err = cli('explain', image, '--model', model, '--out', tmp_path/out)
        assert (code,said)==(2,'') and err.startswith('deepfake-nb: ') and err.count('\n')==1, err
    assert set(tmp_path.rglob('*'))==before
