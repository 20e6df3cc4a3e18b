"""Damaged and hostile inputs by the hundred

    python tools/fuzz.py --n 3600 --seed 0 [--kinds jpeg onnx] [--only KIND:NUMBER]

Inputs of every kind that the package reads are made here, spoilt in a way that the seed, the kind and a number
decide, and given to the functions behind the command line. Three outcomes are right: an answer, an `InputError`,
or an error of that one item. Wrong are any other exception, more than 30 seconds, a process that dies, and, of
weights, checkpoints and ONNX files, an answer with other numbers than those of the whole file. What is wrong is
listed with its KIND:NUMBER, which `--only` repeats with the traceback, leaving the spoilt file behind. Exit code
1 if anything is wrong.
"""
import argparse,io,json,math,multiprocessing,os,shutil,struct,sys,tempfile,time,traceback,zlib
from collections import Counter,defaultdict
from contextlib import contextmanager
from pathlib import Path

SECONDS = 30    # An input that takes longer is a hang
MEMORY = 4*2**30 # Bytes of data that a worker may have
EXTREMES = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff]
ODD = [None, True, -1, 0, .5, 1e308, 10**30, 2**31, float('nan'), float('inf'), '', 'x', '../../../etc/passwd',
    '/dev/zero', '\0', '\ud800', 'a'*5000, [], {}, [[]], dict(a=1), [1]*1000]
CELLS = ['', '-1', '1e400', 'NaN', 'inf', 'None', 'fake', 'REAL', '"', "'", '=1+1', '../../etc/passwd',
    '/dev/zero', '.', '~', '\0', '\ufeff', 'é', 'a'*70_000, '0x10', '1,2', '\u202e']

# Mutations of bytes: each takes (bytes, another sample, rng)

def flip(b, other, rng):
    "One to eight bits, half of the time in the header"
    b,most = bytearray(b),len(b) if rng.random()<.5 else min(len(b), 512)
    for i in rng.integers(most, size=rng.choice([1,1,2,8])): b[i] ^= 1<<int(rng.integers(8))
    return bytes(b)

def field(b, other, rng):
    "A header field becomes an extreme number"
    size,at = int(rng.choice([1,2,4])),int(rng.integers(min(len(b), 400)))
    return b[:at]+(int(rng.choice(EXTREMES))&(1<<8*size)-1).to_bytes(size, str(rng.choice(['big','little'])))+b[at+size:]

def span(b, rng, most=4096):
    "A random range of `b`"
    at = int(rng.integers(len(b)))
    return at,min(len(b), at+int(rng.integers(1, most)))

def cut(b, other, rng): return b[:int(rng.integers(len(b)))]
def drop(b, other, rng): i,j = span(b, rng); return b[:i]+b[j:]
def zero(b, other, rng): i,j = span(b, rng); return b[:i]+bytes(j-i)+b[j:]
def insert(b, other, rng): i,j = span(b, rng); return b[:i]+rng.bytes(j-i)+b[i:]
def repeat(b, other, rng): i,j = span(b, rng); return b[:j]+b[i:j]*int(rng.integers(1, 200))+b[j:]
def splice(b, other, rng): return b[:int(rng.integers(len(b)))]+other[int(rng.integers(len(other))):]

BYTES = [flip,field,cut,drop,zero,insert,repeat,splice]

def spoil_bytes(b, other, rng):
    "One to three mutations, and their names"
    names = []
    for f in rng.choice(BYTES, size=int(rng.choice([1,1,1,2]))):
        if b: b,names = f(b, other, rng),[*names,f.__name__]
    return b,'+'.join(names)

def png_sums(b):
    "A PNG with the checksum of every chunk made right, so that what is inside is looked at"
    out,at = b[:8],8
    while at+12<=len(b):
        n = int.from_bytes(b[at:at+4], 'big')
        if at+12+n>len(b): break
        out,at = out+b[at:at+8+n]+zlib.crc32(b[at+4:at+8+n]).to_bytes(4, 'big'),at+12+n
    return out+b[at:]

def spoil_png(b, other, rng):
    b,names = spoil_bytes(b, other, rng)
    return (png_sums(b),f'{names}+sums') if rng.random()<.6 else (b,names)

# Mutations that know the format

def nodes(obj):
    "Every (container, key) in a JSON document"
    for k,v in list(obj.items()) if isinstance(obj, dict) else list(enumerate(obj)) if isinstance(obj, list) else ():
        yield obj,k
        yield from nodes(v)

def spoil_obj(obj, rng):
    "Change one value of a JSON document, and say how"
    found = list(nodes(obj))
    if not found or rng.random()<.03: return ODD[rng.integers(len(ODD))],'whole'
    box,k = found[rng.integers(len(found))]
    how = str(rng.choice(['odd','odd','odd','drop','wrap','scale','rename']))
    if how=='drop': del box[k]
    elif how=='wrap': box[k] = [box[k]]
    elif how=='scale' and isinstance(box[k], (int,float)): box[k] = box[k]*float(rng.choice([-1,1e6,1e-6,1.5]))
    elif how=='rename' and isinstance(box, dict): box[f'{k}_'] = box.pop(k)
    else: how = 'odd'; box[k] = ODD[rng.integers(len(ODD))]
    return obj,f'{how} {str(k)[:30]}'

def spoil_json(b, other, rng):
    if rng.random()<.15: return spoil_bytes(b, other, rng)
    obj,name = spoil_obj(json.loads(b), rng)
    return json.dumps(obj).encode('utf-8', 'replace'),name

def spoil_tensors(b, other, rng):
    "The JSON header of a safetensors file, or its bytes"
    if rng.random()<.5: return spoil_bytes(b, other, rng)
    n = struct.unpack('<Q', b[:8])[0]
    obj,name = spoil_obj(json.loads(b[8:8+n]), rng)
    head = json.dumps(obj).encode('utf-8', 'replace')
    return struct.pack('<Q', len(head))+head+b[8+n:],f'header: {name}'

def spoil_csv(b, other, rng):
    "One cell, column, row, the separator or the encoding; or the bytes"
    rows = [o.split(',') for o in b.decode().splitlines()]
    how = str(rng.choice(['bytes','cell','cell','cell','head','column','row','separator','encoding','empty']))
    i,j = int(rng.integers(len(rows)-1))+1 if len(rows)>1 else 0,int(rng.integers(len(rows[0])))
    if how=='bytes': return spoil_bytes(b, other, rng)
    if how=='cell': rows[i][j] = CELLS[rng.integers(len(CELLS))]
    if how=='head': rows[0][j] = CELLS[rng.integers(len(CELLS))]
    if how=='column': rows = [o[:j]+o[j+1:] for o in rows]
    if how=='row': rows[i] = rows[i]*int(rng.integers(0, 4))
    if how=='empty': rows = rows[:1]
    text = {'separator':';'}.get(how, ',').join
    encoding = str(rng.choice(['utf-16','utf-8-sig','latin-1'])) if how=='encoding' else 'utf-8'
    return '\n'.join(map(text, rows)).encode(encoding, 'replace'),f'{how} {i},{j}'

# Whole inputs, made once

def save_pictures(home, faces):
    "The drawn faces in every format, with what else a file may hold"
    from PIL import Image,ImageCms
    a,b = (Image.open(o).convert('RGB') for o in faces)
    exif = Image.Exif(); exif[274],exif[0x010F] = 6,'Camera'
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    grey,clear = a.convert('L'),a.convert('RGBA'); clear.putalpha(grey)
    d = home/'pictures'; d.mkdir()
    for name,img,kw in (
        ('a.jpg',a,dict(exif=exif, icc_profile=icc)), ('b.jpg',b,dict(progressive=True, subsampling='4:4:4')),
        ('c.jpg',a.convert('CMYK'),{}), ('a.png',clear,dict(exif=exif, icc_profile=icc)),
        ('b.png',a.convert('P'),dict(transparency=3)), ('c.png',grey.convert('I;16'),{}),
        ('a.webp',a,dict(exif=exif)), ('b.webp',clear,dict(lossless=True)),
        ('a.tif',a,dict(compression='tiff_lzw', icc_profile=icc)), ('b.tif',b,dict(compression='jpeg')),
        ('c.tif',grey,dict(compression='tiff_adobe_deflate')), ('a.gif',a,dict(save_all=True, append_images=[b])),
        ('b.gif',grey,{}), ('a.avif',a,dict(exif=exif)), ('b.avif',clear,{}), ('a.bmp',a,{}),
        ('b.bmp',a.convert('P'),{}), ('a.ppm',a,{}), ('b.pgm',grey,{})): img.save(d/name, **kw)

def save_videos(home, faces):
    "Eight frames in two containers"
    import av
    from PIL import Image
    d = home/'videos'; d.mkdir()
    for name,codec in (('a.mp4','mpeg4'),('b.mkv','mpeg4')):
        with av.open(str(d/name), 'w') as out:
            s = out.add_stream(codec, rate=8, width=64, height=64, pix_fmt='yuv420p')
            for i in range(8):
                out.mux(s.encode(av.VideoFrame.from_image(Image.open(faces[i%2]).convert('RGB').rotate(i))))
            out.mux(s.encode())

def save_tables(home, table):
    "The kinds of tables that people bring: a CSV of paths, and CelebA's lists"
    d = home/'tables'; d.mkdir()
    t = table.assign(label=table.label.map({0:'real',1:'fake'}), group=[f'g{i//2}' for i in range(len(table))],
        split=[('train','valid')[i//2%2] for i in range(len(table))])
    t.to_csv(d/'a.csv', index=False); t[['path','label']].to_csv(d/'b.csv', index=False)
    photos,celeba = list(table.path[table.label==0]),home/'celeba'
    (celeba/'img_align_celeba').mkdir(parents=True)
    for o in photos: os.link(o, celeba/'img_align_celeba'/Path(o).name)
    names = [Path(o).name for o in photos]
    (d/'identity_CelebA.txt').write_text(''.join(f'{o},{i//2}\n'.replace(',', ' ') for i,o in enumerate(names)))
    (d/'list_eval_partition.csv').write_text('image_id,partition\n'+''.join(f'{o},{i%3}\n' for i,o in enumerate(names)))

AUDIT = dict(verdict='weak', probes=[dict(name=k, kind='shortcut', auc=.6, low=.55, high=.65, verdict='weak', mend='mend it')
    for k in ('format','border')])

class Stop(BaseException): "Ends a training as Ctrl-C does"

@contextmanager
def stopped():
    "Stop training after the first checkpoint"
    from deepfake_nb.checkpoints import Run
    save = Run.save
    def and_stop(self, *args, **kw): save(self, *args, **kw); raise Stop
    Run.save = and_stop
    try: yield
    except Stop: pass
    finally: Run.save = save

def settings(epochs=1):
    "Of the comparison that is spoilt"
    from deepfake_nb.settings import Settings
    return Settings(['cnn2','resnet18'], size=32, batch_size=16, frozen_epochs=1, epochs=epochs, weights='none')

def prepare(home):
    "Everything that is to be spoilt, in `home`"
    from deepfake_nb.comparison import compare
    from deepfake_nb.sources import make_table
    from deepfake_nb.split import load_data
    from deepfake_nb.onnx_export import export
    from deepfake_nb.sample import make_sample
    from deepfake_nb.runs import train_model
    sample = make_sample(home/'sample', 32)
    table = make_table([sample/'real'], [sample/'fake'])
    faces = [table.path[0],table.path.iloc[-1]]
    save_pictures(home, faces); save_videos(home, faces); save_tables(home, table)
    compare(table, home/'run', settings(), log=lambda o: None, audit=AUDIT)
    export(home/'run'/'cnn2', home/'model.onnx')
    with stopped(): train_model('cnn2', load_data(table, 32), home/'half', settings(epochs=2))

# What is done with a spoilt input, in a worker

class Lab:
    "What the checks share: the whole inputs, and what they answer"
    def __init__(self, home):
        from deepfake_nb.sources import make_table
        from deepfake_nb.split import load_data
        from deepfake_nb.detector import Detector
        self.home,self.work = home,home/'work'
        self.table = make_table([home/'sample'/'real'], [home/'sample'/'fake'])
        self.data,self.photos = load_data(self.table, 32),list(self.table.path[::16])
        self.detector = Detector.load(home/'run'/'cnn2')
        self.whole = {o:self.ask(home/o) for o in ('run/cnn2','run/resnet18','model.onnx')}
        self.fresh()
        shutil.copytree(home/'half', self.work/'half')
        self.whole['half'] = self.resume(self.work/'half')

    def fresh(self):
        "An empty folder to work in"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()

    def ask(self, path):
        "What a detector says of four faces"
        from deepfake_nb.detector import Detector
        return [(a.prob_fake,a.verdict,a.error) for a in Detector.load(path).predict(self.photos)]

    def resume(self, folder):
        "What a training that goes on from its checkpoint predicts in the end"
        import pandas as pd
        from deepfake_nb.runs import train_model
        train_model('cnn2', self.data, folder, settings(epochs=2))
        return pd.read_csv(folder/'predictions.csv').prob_fake.tolist()

    def place(self, name, data, whole):
        "A copy of the run `whole` in which the file `name` is spoilt"
        shutil.copytree(self.home/whole, self.work/whole, copy_function=os.link)
        (self.work/whole/name).unlink()
        (self.work/whole/name).write_bytes(data)
        return self.work/whole

def tried(*calls):
    "Call one after the other; 'refused' if any raises an `InputError`"
    from deepfake_nb.core import InputError
    said = 'answer'
    for f in calls:
        try: f()
        except InputError as e:
            assert '\n' not in str(e), 'an InputError of more than one line'
            said = 'refused'
    return said

def same(lab, which, f):
    "An answer must have the numbers of the whole file `which`"
    got = []
    said = tried(lambda: got.append(f()))
    return said if said=='refused' or got[0]==lab.whole[which] else 'other numbers'

def picture(lab, name, data, i):
    from deepfake_nb.pixels import read_file
    from deepfake_nb.audit import file_facts
    path = lab.work/name; path.write_bytes(data)
    for equalise in (None,dict(side=32, quality=75)): assert isinstance(file_facts(path, equalise=equalise), (dict,str))
    assert isinstance(read_file(path, (32,)), (tuple,str))
    a,b = (lab.detector.predict([o])[0] for o in (path,data))
    assert (a.prob_fake,a.error is None)==(b.prob_fake,b.error is None), 'a path and its bytes are answered differently'
    return 'answer' if a.error is None else 'refused'

def video(lab, name, data, i):
    path = lab.work/name; path.write_bytes(data)
    return 'answer' if lab.detector.predict([path], n_frames=4)[0].error is None else 'refused'

def table(lab, name, data, i):
    from deepfake_nb.sources import make_table
    from deepfake_nb.split import load_data
    path = lab.work/name; path.write_bytes(data)
    return tried(lambda: load_data(make_table([path]), 32), *([lambda: make_table(data=path)] if name=='a.csv' else []))

def celeba(lab, name, data, i):
    from deepfake_nb.sources import make_table
    root = lab.work/'celeba'
    shutil.copytree(lab.home/'celeba', root, copy_function=os.link)
    for o in ('identity_CelebA.txt','list_eval_partition.csv'):
        (root/o).write_bytes(data if o==name else (lab.home/'tables'/o).read_bytes())
    return tried(*[lambda p=p: make_table([root], [lab.home/'sample'/'fake'], partition=p) for p in (False,True)])

def run(lab, name, data, i):
    from deepfake_nb.app import about
    from deepfake_nb.results import best_model,comparison_table
    from deepfake_nb.report import write_report
    from deepfake_nb.comparison import compare
    from deepfake_nb.onnx_export import export
    from deepfake_nb.tables import evaluate
    folder = lab.place(name, data, 'run')
    some = lab.table.groupby('label').head(6)
    more = [lambda: write_report(folder), lambda: evaluate(folder/'cnn2', some, log=lambda o: None),
        lambda: compare(lab.table, folder, settings(), resume=True, log=lambda o: None),
        lambda: export(folder/'cnn2', lab.work/'x.onnx')]
    return tried(lambda: lab.ask(folder/'cnn2'), lambda: comparison_table(folder), lambda: best_model(folder),
        lambda: about(lab.detector, folder/'cnn2'), *([more[i//5%4]] if i%5==0 else []))

def weights(lab, name, data, i):
    return same(lab, f'run/{Path(name).parent}', lambda: lab.ask(lab.place(name, data, 'run')/Path(name).parent))

def checkpoint(lab, name, data, i):
    return same(lab, 'half', lambda: lab.resume(lab.place(name, data, 'half')))

def onnx(lab, name, data, i):
    path = lab.work/name; path.write_bytes(data)
    return same(lab, 'model.onnx', lambda: lab.ask(path))

_json = 'config.json audit.json cnn2/config.json cnn2/metrics.json resnet18/config.json resnet18/metrics.json'
_csv = 'table.csv comparison.csv bad_files.csv files.csv cnn2/predictions.csv cnn2/history.csv'
_formats = dict(jpeg='a.jpg b.jpg c.jpg', png='a.png b.png c.png', webp='a.webp b.webp', tiff='a.tif b.tif c.tif',
    gif='a.gif b.gif', avif='a.avif b.avif', bmp='a.bmp b.bmp', ppm='a.ppm b.pgm')

def _in(folder, names): return [f'{folder}/{o}' for o in names.split()]

KINDS = { # name: (files that are spoilt, how, what is done with them, share of the inputs)
    **{k:(_in('pictures', v),spoil_png if k=='png' else spoil_bytes,picture,1) for k,v in _formats.items()},
    'mp4':(_in('videos', 'a.mp4'),spoil_bytes,video,1), 'mkv':(_in('videos', 'b.mkv'),spoil_bytes,video,1),
    'csv':(_in('tables', 'a.csv b.csv'),spoil_csv,table,1),
    'celeba':(_in('tables', 'identity_CelebA.txt list_eval_partition.csv'),spoil_csv,celeba,1),
    'json':(_in('run', _json),spoil_json,run,1), 'runcsv':(_in('run', _csv),spoil_csv,run,.5),
    'weights':(_in('run', 'cnn2/model.safetensors '*7+'resnet18/model.safetensors'),spoil_tensors,weights,1),
    'checkpoint':(_in('half', 'checkpoint.safetensors'),spoil_tensors,checkpoint,.3),
    'onnx':(['model.onnx'],spoil_bytes,onnx,1)}

def spoilt(home, seed, kind, i):
    "Number `i` of a kind: (name of the file, its spoilt content, how it was spoilt)"
    import numpy as np
    rng,(files,how,_,_) = np.random.default_rng([seed,zlib.crc32(kind.encode()),i]),KINDS[kind]
    files = [o for o in files if (home/o).exists()]
    file,other = (home/files[rng.integers(len(files))] for _ in range(2))
    whole,data,name = file.read_bytes(),None,''
    while data in (None,whole): data,name = how(whole, other.read_bytes(), rng)
    return inside(home, kind, file),data,name

def inside(home, kind, file):
    "The name of a file; for a run, as it is called inside of the run's folder"
    return str(Path(*file.relative_to(home).parts[1:])) if kind in ('json','runcsv','weights','checkpoint') else file.name

def attempt(lab, seed, kind, i):
    "(outcome, how it was spoilt, traceback)"
    file,data,name = spoilt(lab.home, seed, kind, i)
    lab.fresh()
    try: return KINDS[kind][2](lab, file, data, i),f'{file}: {name}',None
    except Exception: return 'traceback',f'{file}: {name}',traceback.format_exc()

def quiet():
    "One thread, no words, no network, and a limit of memory"
    import torch
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try: import resource
    except ImportError: return      # Windows
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY,MEMORY))

def work(home, seed, conn):
    "Answer (kind, number) with an outcome until there are no more"
    quiet()
    if not (home/'half').exists(): prepare(home)
    lab = Lab(home)
    conn.send('ready')
    while case := conn.recv(): conn.send(attempt(lab, seed, *case))

# The other side

class Worker:
    "A process that is replaced when it hangs or dies"
    def __init__(self, home, seed, target=work): self.args,self.target,self.process = (home,seed),target,None

    def start(self):
        context = multiprocessing.get_context('spawn')
        self.conn,theirs = context.Pipe()
        self.process = context.Process(target=self.target, args=(*self.args,theirs), daemon=True)
        self.process.start(); theirs.close()
        assert self.conn.recv()=='ready'

    def stop(self):
        if self.process: self.process.kill(); self.process.join()
        self.process = None

    def ask(self, case):
        "(outcome, how it was spoilt, traceback)"
        if not self.process: self.start()
        self.conn.send(case)
        try:
            if self.conn.poll(SECONDS): return self.conn.recv()
            outcome = 'hang'
        except EOFError: outcome = 'died'
        self.stop()
        return outcome,'',None

def numbers(kinds, n):
    "(kind, number) of `n` inputs in all"
    total = sum(KINDS[k][3] for k in kinds)
    return [(k,i) for k in kinds for i in range(max(1, round(n*KINDS[k][3]/total)))]

WRONG = 'traceback','hang','died','other numbers'

def report(results):
    "Print a row a kind, and what went wrong; returns how many did"
    print(f"{'kind':11}{'inputs':>7}{'answer':>8}{'refused':>8}"+''.join(f'{o:>15}' for o in WRONG)+f"{'slowest, s':>12}")
    rows = defaultdict(list)
    for o in results: rows[o[0]].append(o)
    for k,v in [*rows.items(),('all',results)]:
        n = Counter(o[2] for o in v)
        wrong,slowest = ''.join(f'{n[o]:15}' for o in WRONG),max(o[5] for o in v)
        print(f"{k:11}{len(v):7}{n['answer']:8}{n['refused']:8}{wrong}{slowest:12.1f}")
    groups = defaultdict(list)
    for o in results:
        if o[2] not in WRONG: continue
        last = o[4].strip().splitlines()[-1][:160] if o[4] else o[3] if o[2]=='other numbers' else ''
        groups[o[2],last,where(o[4])].append(o)
    for (outcome,last,at),v in groups.items():
        print(f"\n{outcome}, {len(v)} times: {last}\n   {at}\n   "+', '.join(f'{k}:{i}' for k,i,*_ in v[:6])+f'   {v[0][3]}')
    return sum(map(len, groups.values()))

def where(tb):
    "The last place in the package that a traceback names"
    lines = [o.strip() for o in (tb or '').splitlines() if 'deepfake_nb/' in o or 'tools/fuzz' in o]
    return lines[-1].replace(str(Path(__file__).resolve().parents[1]), '.') if lines else ''

def fuzz(n=3600, seed=0, kinds=None):
    "Spoil `n` inputs; how many went wrong"
    start,results = time.perf_counter(),[]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as d:
        os.environ['XDG_CACHE_HOME'] = f'{d}/cache'
        worker = Worker(Path(d), seed)
        try:
            for case in numbers(kinds or list(KINDS), n):
                at = time.perf_counter()
                if not worker.process: worker.start(); at = time.perf_counter()
                results.append((*case,*worker.ask(case),time.perf_counter()-at))
        finally: worker.stop()
    wrong = report(results)
    print(f'\n{len(results)} inputs, {wrong} wrong, {time.perf_counter()-start:.0f} s')
    return wrong

def again(case, seed):
    "Repeat one input in this process, and leave the spoilt file behind"
    kind,i = case.split(':')
    home = Path(tempfile.mkdtemp(prefix='fuzz-'))
    os.environ['XDG_CACHE_HOME'] = str(home/'cache')
    prepare(home)
    outcome,how,tb = attempt(Lab(home), seed, kind, int(i))
    print(f"{case}: {outcome}, {how}; in {home/'work'}\n{tb or ''}")
    return outcome in WRONG

if __name__ == '__main__':
    os.environ.update(OMP_NUM_THREADS='1', TQDM_DISABLE='1', HF_HUB_OFFLINE='1', MPLBACKEND='Agg', PYTHONWARNINGS='ignore')
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--n', type=int, default=3600, help='inputs in all')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--kinds', nargs='+', choices=list(KINDS), help='all, if left out')
    p.add_argument('--only', metavar='KIND:NUMBER', help='repeat one')
    a = p.parse_args()
    sys.exit(1 if (again(a.only, a.seed) if a.only else fuzz(a.n, a.seed, a.kinds)) else 0)
