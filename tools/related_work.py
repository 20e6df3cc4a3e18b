"""Measure the paper's related work on real faces, for the tutorial: nbs/images/related_work.json.

    python tools/related_work.py SHARED [--work FOLDER] [--only rows|spliced|imbalance|swaps|videos]

SHARED holds data/{ffhq_stylegan,dfdc,videos} and weights/. Runs go to FOLDER and are continued there. About an hour on two cores."""
import argparse,sys,tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT),str(ROOT/'tools')]

from ready import training_table
from deepfake_nb.audit import auc_interval
from deepfake_nb.boosting import imbalance
from deepfake_nb.comparison import compare
from deepfake_nb.core import read_json,write_json
from deepfake_nb.detector import Detector
from deepfake_nb.explain import gradcam
from deepfake_nb.features import frozen_features
from deepfake_nb.backbones import create_model
from deepfake_nb.images import find_images,open_image,squish
from deepfake_nb.metrics import auc
from deepfake_nb.results import comparison_table,read_predictions
from deepfake_nb.runs import load_model
from deepfake_nb.settings import Settings
from deepfake_nb.sources import COLUMNS
from deepfake_nb.split import load_data
from deepfake_nb.tampering import jpeg,swap
from deepfake_nb.verify import compare_scores
from deepfake_nb.where import MAP,judge_maps,read_map

OUT = ROOT/'nbs'/'images'/'related_work.json'
NAME = 'tf_efficientnet_lite0'
KINDS = [f'{o}:{NAME}' for o in ('adaboost','xgboost','twostream','sbi')]

def settings(shared, models, **kw):
    "224 pixels, three frozen epochs and three others, one seed"
    return Settings(**{**dict(models=models, size=224, frozen_epochs=3, epochs=3, weights=str(shared/'weights'), n_per_class=10_000), **kw})

def test_rows(out, against=NAME):
    "A row a model: test AUC with its interval, its difference to the plain backbone (paired), parameters and seconds"
    df,rows = comparison_table(out).set_index('model'),[]
    files = {m:out/m/'test.csv' for m in df.index}
    for m,file in files.items(): read_predictions(out/m, 'test')[['path','label','prob_fake']].to_csv(file, index=False)
    for m in df.index:
        t = pd.read_csv(files[m])
        row = dict(model=m, weights=df.weights[m], params=int(df.params[m]), valid_loss=float(df.valid_loss[m]), seconds=float(df.seconds[m]))
        row |= dict(zip(('auc','low','high'), auc_interval(t.label, t.prob_fake)), n=len(t))
        if m!=against:
            pair = compare_scores([files[m],files[against]])['pairs'][0]
            row |= dict(gap=pair['auc'], gap_low=pair['auc_low'], gap_high=pair['auc_high'], p=pair['p'])
        rows.append(row)
    return rows

def whole_faces(shared, work):
    "The rows of `compare` on the matched pair: photographs of FFHQ, and fakes of a StyleGAN trained on them"
    compare(training_table(shared), work/'whole', settings(shared, [NAME,'googlenet',*KINDS]), resume=True, audit=False)
    return test_rows(work/'whole')

def splice(shared, folder):
    "Write every photograph untouched and with a part of another one, both as a JPEG of the same quality; their table"
    t = training_table(shared)
    t,rng,rows = t[t.label==0],np.random.default_rng(0),[]
    for test in (True,False):
        paths = list(t.path[(t.split=='test')==test])
        px = [squish(open_image(Path(o)), 256) for o in paths]
        for i,o in enumerate(paths):
            quality = int(rng.integers(50, 96))
            for label,x in enumerate((px[i],swap(px[i], px[i-1], rng)[0])):
                path = folder/('fake' if label else 'real')/f'{Path(o).stem}.jpg'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(x).save(path, 'jpeg', quality=quality)
                rows.append(dict(path=str(path), label=label, source='spliced' if label else 'ffhq', group=Path(o).stem, split='test' if test else ''))
    return pd.DataFrame(rows)[COLUMNS]

def spliced_faces(shared, work):
    "The same rows, frozen, on photographs with a part of another photograph; and the patch stream, which needs no example"
    table = splice(shared, work/'splices')
    compare(table, work/'spliced', settings(shared, [NAME,*KINDS], epochs=0), resume=True, audit=False)
    train = table[(table.split!='test') & (table.label==0)]
    def pixels(paths): return np.stack([squish(open_image(Path(o)), 256) for o in paths])
    from deepfake_nb.patches import fit_patches,splice_score
    net = fit_patches(pixels(train.path), seed=0)
    rows,aucs = test_rows(work/'spliced'),{}
    whole = training_table(shared)
    for name,t in (('spliced',table[table.split=='test']),('whole',whole[whole.split=='test'])):
        aucs[name] = dict(zip(('auc','low','high'), auc_interval(t.label, splice_score(net, pixels(t.path)))), n=len(t))
    return dict(rows=rows, patches=aucs)

def boosting(shared, work):
    "Boosting and logistic regression on frozen features, with 1, 10 and 50 photographs for each fake"
    data = load_data(training_table(shared), 224)
    features = frozen_features(data, create_model(NAME, 224, shared/'weights'), device='cpu')
    x = {k:features.see(k).numpy() for k in ('train','valid','test')}
    learn,y = np.concatenate([x['train'],x['valid']]),np.concatenate([data.labels('train'),data.labels('valid')])
    return imbalance(learn, y, x['test'], data.labels('test')).to_dict('records')

def dfdc_table(shared):
    "Frames of DFDC and swaps of the same; a third of the pairs is kept for testing"
    rows = []
    for label,kind in enumerate(('real','fake')):
        for o in find_images(shared/'data'/'dfdc'/kind):
            pair = Path(o).name.split('_')[0]
            rows.append(dict(path=str(o), label=label, source=f'dfdc {kind}', group=pair, split='test' if int(pair)%3==0 else ''))
    return pd.DataFrame(rows)[COLUMNS]

def pair_auc(run):
    "Share of the test pairs in which the swap scores above the frame that it was made of, and the bootstrap interval"
    t = read_predictions(run, 'test').assign(pair=lambda t: t.path.map(lambda o: Path(o).name.split('_')[0]))
    p = t.pivot(index='pair', columns='label', values='prob_fake').dropna()
    wins = (p[1]>p[0])+.5*(p[1]==p[0])
    draws = wins.to_numpy()[np.random.default_rng(0).integers(len(wins), size=(2000,len(wins)))].mean(1)
    return dict(pair_auc=float(wins.mean()), pair_low=float(np.quantile(draws, .025)), pair_high=float(np.quantile(draws, .975)), pairs=len(wins))

def swaps(shared, work):
    "Face swaps of DFDC: a backbone that learns from swaps, and one that learns from the photographs alone"
    compare(dfdc_table(shared), work/'dfdc', settings(shared, [NAME,f'sbi:{NAME}']), resume=True, audit=False)
    rows = test_rows(work/'dfdc')
    for r in rows: r |= pair_auc(work/'dfdc'/r['model'])
    return rows

def clip_row(model, n_frames, answers, names):
    "Clip and frame AUC of the clips in which a face was seen; intervals by drawing whole clips anew"
    y = np.array(['/fake/' in o for o in names]).astype(int)
    clip,frames = np.array([a.prob_fake for a in answers]),[np.array([p for _,p in a.timeline]) for a in answers]
    def frame_auc(i): return auc(np.repeat(y[i], [len(frames[k]) for k in i]), np.concatenate([frames[k] for k in i]))
    rng,draws = np.random.default_rng(0),[]
    while len(draws)<500:
        i = rng.integers(len(y), size=len(y))
        if 0<y[i].sum()<len(i): draws.append((auc(y[i], clip[i]),frame_auc(i)))
    low,high = np.quantile(draws, (.025,.975), axis=0)
    return dict(model=model, frames=n_frames, clips=len(y), seen=sum(map(len, frames)), clip_auc=auc(y, clip), clip_low=low[0], clip_high=high[0],
        frame_auc=frame_auc(np.arange(len(y))), frame_low=low[1], frame_high=high[1],
        caught=int((np.array([a.verdict for a in answers])[y==1]=='fake').sum()), accused=int((np.array([a.verdict for a in answers])[y==0]=='fake').sum()))

def videos(shared, work, counts=(8,32)):
    "Clips of FaceForensics++ and Celeb-DF; a frame without a face is not scored, a clip without one is left out"
    clips,rows = [str(o) for o in sorted((shared/'data'/'videos').glob('*/*.mp4'))],[]
    runs = {'ready detector':None, 'sbi, from FFHQ':work/'whole'/f'sbi:{NAME}', 'sbi, from DFDC':work/'dfdc'/f'sbi:{NAME}', 'swaps of DFDC':work/'dfdc'/NAME}
    for name,run in runs.items():
        det = Detector.load(run) if run else Detector.default()
        for n in counts:
            answers = det.predict(clips, n_frames=n, faces=True)
            seen = [(a,o) for a,o in zip(answers, clips) if a.error is None]
            rows.append(clip_row(name, n, *zip(*seen)))
            print(rows[-1], flush=True)
    return rows

def gradcams(shared, work, n=141):
    "Grad-CAM of the trained backbone against the masks that the map is judged by, and the map itself"
    model,config = load_model(work/'spliced'/NAME)
    t = training_table(shared)
    px = np.stack([squish(open_image(Path(o)), 256) for o in t.path[(t.label==0) & (t.split=='test')][:n]])
    rng = np.random.default_rng(0)
    made,masks = map(np.stack, zip(*[swap(px[i], px[i-1], rng) for i in range(len(px))]))
    made,clean = (np.stack([jpeg(o, 75) for o in x]) for x in (made,px))
    def cams(x): return np.stack([_cam(model, o, config['size']) for o in x])
    answer,found = read_map()
    maps = {'Grad-CAM':cams, 'map':lambda x: np.concatenate([answer(x[i:i+16]) for i in range(0, len(x), 16)])}
    rows = []
    for name,f in maps.items():
        gate = found['threshold'] if name=='map' else 0.
        row = judge_maps(f(made), masks, f(clean), gate)
        rows.append({'map':name, **{k:float(v) for k,v in row.items()}})
    return rows

def _cam(model, pixels, size):
    "Grad-CAM of one picture, from 0 to 1, at 256 pixels"
    x = torch.from_numpy(squish(Image.fromarray(pixels), size)).permute(2,0,1)[None]/255
    cam = np.maximum(np.asarray(gradcam(model, x))[0], 0)
    cam = np.asarray(Image.fromarray((cam/max(cam.max(), 1e-9)).astype(np.float32)).resize((256,256), Image.BILINEAR))
    return cam

PARTS = dict(rows=whole_faces, spliced=spliced_faces, imbalance=boosting, swaps=swaps, videos=videos, gradcam=gradcams)

def main():
    p = argparse.ArgumentParser()
    p.add_argument('shared', type=Path)
    p.add_argument('--work', type=Path, default=Path(tempfile.gettempdir())/'related_work')
    p.add_argument('--only', choices=list(PARTS))
    a = p.parse_args()
    for name in [a.only] if a.only else PARTS:
        part = PARTS[name](a.shared, a.work)
        write_json(OUT, (read_json(OUT) if OUT.exists() else {}) | {name:part})

if __name__=='__main__': main()
