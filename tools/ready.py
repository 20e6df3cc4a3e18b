"""Make the ready detector: train on photographs of FFHQ and fakes of StyleGAN, export, measure, and write its card.

    python tools/ready.py SHARED [--only signals|measure] [--before FILE.onnx]

SHARED holds data/{ffhq_stylegan,generated_photos,celeba,ciplab,dfdc}, faces/ and weights/. Three quarters of an hour on two cores."""
import argparse,sys
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deepfake_nb.audit import auc_interval
from deepfake_nb.calibration import thresholds,verdict
from deepfake_nb.comparison import compare
from deepfake_nb.core import read_json,write_json,write_table
from deepfake_nb.delivery import EDITS,STATES,STRESS,by_state,changed_scores,choose_blind,compare_ways,moved_threshold,ranges_text,set_blind
from deepfake_nb.detector import Detector
from deepfake_nb.images import find_images,open_image
from deepfake_nb.onnx_export import export
from deepfake_nb.robustness import _share
from deepfake_nb.settings import Settings
from deepfake_nb.linear import LINEAR,fit_linear,resave
from deepfake_nb.sources import COLUMNS

MODEL = 'tf_efficientnet_lite0+mobilenetv2_100'
FILE = ROOT/'deepfake_nb'/'ready.onnx'
BUDGET = .015 # False alarms in any state, where thresholds are chosen: less than the 2 % that we want elsewhere

def drawn(folder, n, seed=0, less=()):
    "Up to `n` pictures of `folder`, drawn by chance, none of them in `less`"
    found = [o for o in map(str, find_images(folder)) if o not in set(less)]
    return [str(o) for o in np.random.default_rng(seed).permutation(found)[:n]]

def training_table(
    shared:Path, # The folder with the data
)->pd.DataFrame: # As `make_table` gives it; a fifth of each class is kept for testing
    "The pictures that the ready detector learns from, and those that it is tested on"
    pair,rows = shared/'data'/'ffhq_stylegan',[]
    for label,kind in enumerate(('real','fake')):
        paths = drawn(pair/kind, 700)
        split = ['test' if i<=.2*len(paths) else '' for i in range(len(paths))]
        group = [f'{kind}/{Path(o).stem}' for o in paths]
        source = ('ffhq','stylegan')[label]
        rows.append(pd.DataFrame(dict(path=paths, label=label, source=source, group=group, split=split)))
    return pd.concat(rows, ignore_index=True)[COLUMNS]

def with_copies(
    table:pd.DataFrame, # As `training_table` gives it
    folder:Path, # Where the copies are written, as PNG
)->pd.DataFrame: # A row more for each picture that is not for testing, in the group of its original
    "Add a changed copy of each picture: photographs and fakes delivered badly, photographs also edited"
    rng,rows = np.random.default_rng(0),[]
    for r in table[table.split!='test'].itertuples():
        changes = {k:f for k,f in {**STATES, **({} if r.label else EDITS)}.items() if k!='native'}
        change = list(changes.values())[rng.integers(len(changes))]
        path = (folder/r.group).with_suffix('.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        change(open_image(Path(r.path))).save(path)
        rows.append(dict(path=str(path), label=r.label, source=r.source, group=r.group, split=''))
    return pd.concat([table,pd.DataFrame(rows)], ignore_index=True)

def phashes(paths): return np.stack([imagehash.phash(Image.open(o), hash_size=16).hash.ravel() for o in paths])

def unseen(paths, seen):
    "Those of `paths` that look like none of `seen`"
    known = phashes(seen)
    return [o for o,h in zip(paths, phashes(paths)) if (h!=known).sum(1).min()>24]

def held_out(
    shared:Path, # The folder with the data
)->dict[str,list[str]]: # Paths by source
    "Pictures that the ready detector was not trained on, and on which nothing was chosen"
    table,data = training_table(shared),shared/'data'
    test = table[table.split=='test']
    photos = [str(o) for o in find_images(data/'ffhq_stylegan'/'real')]
    return dict(ffhq=list(test[test.label==0].path), stylegan=list(test[test.label==1].path),
        ffhq_beside=unseen([str(o) for o in find_images(shared/'faces'/'real')], photos),
        stylegan2=[str(o) for o in find_images(shared/'faces'/'fake')],
        generated_photos=drawn(data/'generated_photos', 300),
        celeba=drawn(data/'celeba'/'img_align_celeba', 300),
        retouched_real=drawn(data/'ciplab'/'real', 300), retouched=drawn(data/'ciplab'/'fake', 300),
        swaps_real=drawn(data/'dfdc'/'real', 300), swaps=drawn(data/'dfdc'/'fake', 300))

def to_choose_on(
    shared:Path, # The folder with the data
    run:Path, # The run of `compare`
)->tuple[list[str],list[str]]: # Photographs and fakes
    "Pictures to choose blind ranges on: neither trained on nor in `held_out`"
    data,out,t = shared/'data',held_out(shared),pd.read_csv(run/'table.csv')
    valid = t[(t.split=='valid') & ~t.path.str.endswith('.png')]
    def others(folder, name): return drawn(folder, 110, 1, out[name])
    photos = [*valid[valid.label==0].path, *others(data/'ciplab'/'real', 'retouched_real'),
        *others(data/'celeba'/'img_align_celeba', 'celeba'), *others(data/'dfdc'/'real', 'swaps_real')]
    return photos,[*valid[valid.label==1].path, *others(data/'generated_photos', 'generated_photos')]

def scores(
    shared:Path, # The folder with the data
)->dict[str,list]: # `Prediction`s by source; without a face, there is none
    "What the ready detector says of the pictures that it was not trained on"
    det = Detector.default()
    return {k:[a for a in det.predict(o) if a.error is None] for k,o in held_out(shared).items()}

EACH = 140 # Pictures of each source that are changed in every way

def state_scores(det, shared, changes, keys):
    "`changed_scores` of up to `EACH` held-out pictures of some sources"
    out = held_out(shared)
    return changed_scores(det, [o for k in keys for o in out[k][:EACH]], changes)

PAIRS = [('StyleGAN, other people','ffhq','stylegan'), ('StyleGAN2, never seen','ffhq_beside','stylegan2'),
    ('a commercial generator, never seen','ffhq','generated_photos'),
    ('retouched by hand','retouched_real','retouched'), ('face swaps, frames of videos','swaps_real','swaps')]
PHOTOS = [('FFHQ','ffhq'), ('FFHQ, another draw','ffhq_beside'), ('CelebA','celeba'),
    ('photographs beside the retouched','retouched_real'), ('frames of unswapped videos','swaps_real')]
REAL,FAKE = ('ffhq','ffhq_beside','celeba','retouched_real','swaps_real'),('stylegan','stylegan2','generated_photos')

def share(hits):
    "A share with Wilson's interval"
    p,low,high = _share(int(hits.sum()), len(hits))
    return f'{p:.1%} [{low:.1%}, {high:.1%}]'

def by_source(s):
    "The tables of the card by source: of fakes, and of photographs"
    lines = ['| fakes | AUC [95 %] | called fake | uncertain | called real |', '|---|---|---|---|---|']
    p = {k:np.array([a.prob_fake for a in v]) for k,v in s.items()}
    word = {k:np.array([a.verdict for a in v]) for k,v in s.items()}
    for name,real,fake in PAIRS:
        y = np.r_[np.zeros(len(p[real])),np.ones(len(p[fake]))]
        a,lo,hi = auc_interval(y, np.r_[p[real],p[fake]])
        shares = ' | '.join(f'{(word[fake]==o).mean():.0%}' for o in ('fake','uncertain','real'))
        lines.append(f'| {name} ({len(p[fake])}) | {a:.3f} [{lo:.3f}, {hi:.3f}] | {shares} |')
    lines += ['', '| photographs | called fake [95 %] | uncertain |', '|---|---|---|']
    return lines+[f"| {name} ({len(p[k])}) | {share(word[k]=='fake')} | {(word[k]=='uncertain').mean():.0%} |"
        for name,k in PHOTOS]

def in_a_scene(shared):
    "What it costs that a face is cut out of a larger picture: a line"
    det,out,p = Detector.default(),held_out(shared),{}
    for k in ('ffhq','stylegan'):
        found = []
        for path in out[k]:
            scene = Image.new('RGB', (800,600), (120,130,125))
            scene.paste(open_image(Path(path)), (270,170))
            found += det.predict(scene)[:1]
        p[k] = np.array([a.prob_fake for a in found if a.error is None])
    a,lo,hi = auc_interval(np.repeat([0,1], [len(o) for o in p.values()]), np.concatenate(list(p.values())))
    called,n = {k:(o>=det.config['threshold']) for k,o in p.items()},sum(len(out[k]) for k in p)
    return (f"Faces that it cuts out itself are not aligned. The pictures of the first row, put into a grey picture of 800x600 pixels: {sum(map(len, p.values()))} of {n} faces found, "
        f"AUC {a:.3f} [{lo:.3f}, {hi:.3f}], photographs called fake {share(called['ffhq'])}, fakes called fake {called['stylegan'].mean():.0%}.")

def by_delivery(states):
    "The table of the card by state of delivery"
    head = ['| state | photographs called fake [95 %] | uncertain | fakes called fake | real | uncertain |', '|---|---|---|---|---|---|']
    return head+[f'| {r.state} | {r.real_fake:.1%} [{r.real_low:.1%}, {r.real_high:.1%}] | {r.real_uncertain:.0%} | '
        f'{r.fake_fake:.0%} | {r.fake_real:.0%} | {r.fake_uncertain:.0%} |' for r in states.itertuples()]

def by_edit(sheets):
    "The table of the card by edit: before and after training on changed copies"
    head = ['| photographs | '+' | '.join(f'called fake, {k}' for k in sheets)+' |', '|---|'+'---|'*len(sheets)]
    def cell(r): return f'{r.real_fake:.1%} [{r.real_low:.1%}, {r.real_high:.1%}], uncertain {r.real_uncertain:.0%}'
    return head+[f'| {rows[0].state} | '+' | '.join(map(cell, rows))+' |' for rows in zip(*(o.itertuples() for o in sheets.values()))]

def signal_lines(linear):
    "What the two small models are worth"
    return [f"| {k} | {linear[k]['auc']:.3f} |" for k in ('spectrum','noise')]

def card(
    shared:Path, # The folder with the data
    run:Path, # The run of `compare`
    before:Path=None, # An ONNX file that was trained without changed copies
)->str: # Markdown
    "The card of the ready detector, every figure measured"
    det = Detector.default()
    blind = det.config['blind']
    real,fake = (state_scores(det, shared, STATES, o) for o in (REAL,FAKE))
    chosen = [with_threshold(pd.read_csv(run/f'chosen_{o}.csv'), det.config) for o in ('real','fake')]
    ways = compare_ways(chosen, (real,fake), thresholds(det.config)[1])
    others = {} if before is None else {'trained on originals':Detector.load(before)}
    sheets = {k:by_state(state_scores(o, shared, STRESS, REAL)) for k,o in (others|{'trained on copies too':det}).items()}
    lines = [CARD_HEAD, *by_source(scores(shared)), '', in_a_scene(shared), CARD_STATES, *by_delivery(by_state(real, fake)), '',
        f"No answer, whatever the score, in these ranges: of detail, {ranges_text(blind['detail'])}; of noise (standard deviation, of 255), {ranges_text(blind['noise'])}. "
        'Both, and the upper threshold, were chosen on other pictures than these.', '',
        'Is that better than to call fewer pictures fake? The control moves the threshold until no state has more than 2 % false alarms on the pictures to choose on:', '',
        '| way | photographs called fake in the worst state | over all | fakes found over all states |', '|---|---|---|---|',
        *(f'| {r.way} | {r.worst_state:.1%} | {r.called_fake:.1%} | {r.found:.0%} |' for r in ways.itertuples()),
        CARD_EDITS, *by_edit(sheets)]
    return '\n'.join([*lines, CARD_TAIL.format(budget=100*BUDGET, n=chosen[0].path.nunique())])

CARD_HEAD = f"""# The ready detector

`deepfake-nb predict picture.jpg` and `Detector.default()` use this model: two small backbones, EfficientNet-Lite0 and MobileNetV2 (`{MODEL}`), before one head, in one ONNX file with weights of 8 and 16 bits. It gets a face of 256x256 pixels and gives the probability that a GAN of the StyleGAN family made it.

## How good it is

On pictures that it was not trained on. AUC is the chance that a fake gets a higher score than a photograph; one half is chance.
"""

CARD_STATES = """
## How pictures arrive

Up to 140 photographs of each of the five sources above, and as many fakes of the first three kinds, changed in the ways in which pictures reach people. The changes are imitations.
"""

CARD_EDITS = """
## What people do to their photographs

The same photographs after simulated edits of apps: skin smoothing, denoising, and so on.
"""

CARD_TAIL = """
## What it cannot do

It does not find swapped faces, retouched faces or pictures of diffusion models (the last were not measured at all). Where the tables say "uncertain" it gives no answer. A score is no proof of anything about a single picture.

## How it was made

`python tools/ready.py SHARED`: 560 photographs of FFHQ and 560 fakes of StyleGAN to train and validate on, and a changed copy of each; 256 pixels, recipe `tuned`, ImageNet weights, seven frozen and three unfrozen epochs, seed 0. The temperature and the lower threshold were chosen on the validation split; the upper threshold so that no state had more than {budget:g} % false alarms among {n} photographs of four sources, which are neither trained on nor in the tables above.

## Licence

The code of this package is Apache-2.0. This model is not: the photographs of FFHQ and the fakes that it learnt from are for non-commercial use (CC BY-NC-SA 4.0 and CC BY-NC 4.0), and so is the model.
"""

def train(shared, out):
    "Train, choose blind ranges, and write the ONNX file"
    settings = Settings([MODEL], size=256, batch_size=32, epochs=3, weights=str(shared/'weights'),
        data='Photographs of FFHQ and fakes of StyleGAN ("140k real and fake faces"), and a changed copy of each.')
    compare(with_copies(training_table(shared), out.parent/'copies'), out, settings, resume=True)
    choose(shared, out)

def choose(shared, out):
    "Choose the upper threshold and the blind ranges on pictures of several sources, and write the ONNX file"
    run = out/MODEL
    scores = [changed_scores(Detector.load(run), o) for o in to_choose_on(shared, out)]
    for o,kind in zip(scores, ('real','fake')): write_table(out/f'chosen_{kind}.csv', o)
    config = read_json(run/'config.json')
    config['threshold'] = max(config['threshold'], float(moved_threshold(scores[0], BUDGET)))
    write_json(run/'config.json', config)
    blind = choose_blind(*(with_threshold(o, config) for o in scores))
    set_blind(run, blind)
    print(config['threshold'], blind, export(run, FILE, compact=True))

def with_threshold(scores, config):
    "Scores with the verdicts that the thresholds of `config` give"
    low,high = thresholds(config)
    return scores.assign(by_score=[verdict(p, high, low) for p in scores.prob_fake])

def fit_signals(shared):
    "Fit the small models of spectrum and noise residual, and write them"
    table = training_table(shared)
    table = table[table.split!='test']
    det = Detector.default()
    pixels = [resave(det.prepare(o), i) for i,o in enumerate(table.path)]
    linear = {k:fit_linear(np.stack([f(px) for px in pixels]), table.label.to_numpy()) for k,f in LINEAR.items()}
    write_json(FILE.with_suffix('.json'), dict(size=det.config['size'], **linear))
    print({k:o['auc'] for k,o in linear.items()})

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('shared', type=Path, help='the folder with data/, faces/ and weights/')
    parser.add_argument('--out', type=Path, default=Path('runs/ready'), help='the run folder')
    parser.add_argument('--only', choices=['choose','signals','measure'], help='one step, on what is there')
    parser.add_argument('--before', type=Path, help='an ONNX file to compare with: trained without changed copies')
    args = parser.parse_args()
    if args.only is None: train(args.shared, args.out)
    if args.only=='choose': choose(args.shared, args.out)
    if args.only in (None,'signals'): fit_signals(args.shared)
    if args.only=='signals': return
    text = card(args.shared, args.out, args.before)
    FILE.with_suffix('.md').write_text(text, encoding='utf-8')
    print(text)

if __name__ == '__main__': main()
