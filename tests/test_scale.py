"Answers in parts, which survive killed workers and drivers; the store is a small server on this machine that speaks as much of S3 as is needed."
import csv,json,os,re,shutil,signal,socket,subprocess,sys,time
from http.server import BaseHTTPRequestHandler,ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread,enumerate as threads
from urllib.parse import parse_qs,unquote,urlsplit

import pytest

pa = pytest.importorskip('pyarrow', reason="PyArrow is not installed: pip install 'deepfake_nb[scale]'")
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem,SubTreeFileSystem

from deepfake_nb import parts,scale
from deepfake_nb.core import InputError,locked
from deepfake_nb.detector import Detector
from deepfake_nb.parts import Place,Stores,list_pictures,make_manifest,model_files,part_name
from deepfake_nb.scale import PartScorer,predict_parts,run_parts
from deepfake_nb.scorers import READY
from deepfake_nb.tables import predict_csv
from deepfake_nb.video import find_media

needs_ray = pytest.mark.skipif(find_spec('ray') is None, reason="Ray is not installed: pip install 'deepfake_nb[scale]'")
needs_proc = pytest.mark.skipif(not Path('/proc/self/cmdline').exists(), reason='the processes of the workers are found in /proc')

@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    "A worker sets the threads of its process, which here is that of all tests"
    import torch
    before = torch.get_num_threads()
    monkeypatch.setenv('ORT_INTRA_OP_NUM_THREADS', str(before))
    yield
    torch.set_num_threads(before)

@pytest.fixture(scope='module')
def pictures(faces, tmp_path_factory):
    "Forty pictures, a text and an empty file that call themselves pictures, and a name that is not UTF-8"
    d = tmp_path_factory.mktemp('pictures')/'d'
    d.mkdir()
    for kind in ('real','fake'):
        for o in find_media(faces/kind)[:20]: shutil.copy(o, d/f'{kind}-{o.name}')
    (d/'m.jpg').write_text('no picture')
    (d/'n.png').write_bytes(b'')
    shutil.copy(d/'real-00000.jpg', os.fsdecode(os.fsencode(d)+b'/caf\xe9.jpg'))
    return d

@pytest.fixture(scope='module')
def want(pictures, tmp_path_factory):
    "What predict_csv says of them"
    out = tmp_path_factory.mktemp('want')/'a.csv'
    predict_csv(Detector.default(), pictures, out, faces=False)
    return read_csv(out)

def read_csv(path): return list(csv.DictReader(open(path, encoding='utf-8', newline='')))

def rows(out): return [r for o in sorted(Path(out).glob('part-*.parquet')) for r in pq.read_table(o).to_pylist()]

def check(got, want):
    "The rows of parts must be those of a CSV"
    def text(v): return '' if v is None else ' '.join(map(str, v)) if isinstance(v, list) else v
    assert [{k:text(v) for k,v in o.items() if k!='prob_fake'} for o in got] == [{k:v for k,v in o.items() if k!='prob_fake'} for o in want]
    assert [o['prob_fake'] or -1 for o in got] == pytest.approx([float(o['prob_fake'] or -1) for o in want], abs=1e-6)

def make_job(paths, out, stores=None, model=READY, part_size=8, faces=False):
    "The job of a call, its model and its parts, without Ray"
    stores = Stores() if stores is None else stores
    files,place = model_files(model),Place(out, stores)
    manifest = make_manifest(paths, files, part_size, faces=faces)
    parts.claim(place, manifest)
    job = dict(place=place, manifest=manifest, key=parts.job_key(manifest), stores=stores, cwd=os.getcwd(), threads=1,
        precision='float32', device='cpu', faces=faces, every=None)
    return job,files,{i//part_size:paths[i:i+part_size] for i in range(0, len(paths), part_size)}

def one_process(*args, **kw):
    "Score all parts in this process"
    job,files,todo = make_job(*args, **kw)
    said = PartScorer(job, files)(dict(part=list(todo), paths=[json.dumps(o) for o in todo.values()]))
    assert not any(said['wrong']) and sum(said['pictures']) == job['manifest']['pictures']
    return job['place']

def refuses(f, words):
    with pytest.raises(InputError, match=words) as e: f()
    assert len(str(e.value).splitlines()) == 1

# a store

class Bucket(BaseHTTPRequestHandler):
    "Buckets by the names of their objects: GET, HEAD, PUT, DELETE, lists, and uploads that can be seen once they are complete"
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass

    def reply(self, code, data=b'', **headers):
        self.send_response(code)
        for k,v in {'Content-Length':len(data), **headers}.items(): self.send_header(k.replace('_', '-'), str(v))
        self.end_headers()
        if self.command!='HEAD': self.wfile.write(data)

    def wrong(self, name): self.reply(404, f'<Error><Code>{name}</Code><Message>{name}</Message></Error>'.encode(), Content_Type='application/xml')

    def asked(self):
        url = urlsplit(self.path)
        return unquote(url.path).lstrip('/'),{k:v[0] for k,v in parse_qs(url.query, keep_blank_values=True).items()}

    def chunks(self, read):
        "The data of a body that comes in chunks"
        data = b''
        while n := int(read().split(b';')[0], 16): data,_ = data+read(n),read()
        while read().strip(): pass
        return data

    def body(self):
        "The data of a body, which may be in chunks, and in chunks within these"
        def read(n=None): return self.rfile.readline() if n is None else self.rfile.read(n)
        data = self.chunks(read) if 'chunked' in self.headers.get('Transfer-Encoding', '') else read(int(self.headers.get('Content-Length') or 0))
        if 'aws-chunked' not in self.headers.get('Content-Encoding', ''): return data
        lines = __import__('io').BytesIO(data)
        return self.chunks(lambda n=None: lines.readline() if n is None else lines.read(n))

    def do_GET(self):
        (path,asked),objects = self.asked(),self.server.objects
        bucket,_,key = path.partition('/')
        if bucket!='faces': return self.wrong('NoSuchBucket')
        if 'list-type' in asked: return self.names(asked)
        if path not in objects: return self.wrong('NoSuchKey') if key else self.reply(200)
        self.reply(200, objects[path], ETag='"1"', Last_Modified='Sat, 28 Nov 2026 00:00:00 GMT')
    do_HEAD = do_GET

    def names(self, asked):
        start,end = asked.get('prefix', ''),asked.get('delimiter')
        keys = sorted(o.removeprefix('faces/') for o in list(self.server.objects) if o.startswith(f'faces/{start}'))
        deep = {o for o in keys if end and end in o[len(start):]}
        folders = sorted({start+o[len(start):].split('/')[0]+'/' for o in deep})
        def entry(o): return f'<Contents><Key>{o}</Key><LastModified>2026-11-28T00:00:00.000Z</LastModified><Size>{len(self.server.objects["faces/"+o])}</Size></Contents>'
        text = ''.join(entry(o) for o in keys if o not in deep)+''.join(f'<CommonPrefixes><Prefix>{o}</Prefix></CommonPrefixes>' for o in folders)
        n = len(keys)-len(deep)+len(folders)
        self.reply(200, f'<ListBucketResult><KeyCount>{n}</KeyCount><IsTruncated>false</IsTruncated>{text}</ListBucketResult>'.encode(), Content_Type='application/xml')

    def do_PUT(self):
        (path,asked),data = self.asked(),self.body()
        if not path.startswith('faces/'): return self.wrong('NoSuchBucket')
        if 'uploadId' in asked: self.server.uploads.setdefault(asked['uploadId'], {})[int(asked['partNumber'])] = data
        else: self.server.objects[path] = data
        self.reply(200, ETag='"1"')

    def do_POST(self):
        (path,asked),_ = self.asked(),self.body()
        if not path.startswith('faces/'): return self.wrong('NoSuchBucket')
        if 'uploads' in asked: return self.reply(200, f'<InitiateMultipartUploadResult><UploadId>{time.time_ns()}</UploadId></InitiateMultipartUploadResult>'.encode())
        self.server.objects[path] = b''.join(v for _,v in sorted(self.server.uploads.pop(asked['uploadId']).items()))
        self.reply(200, b'<CompleteMultipartUploadResult><ETag>"1"</ETag></CompleteMultipartUploadResult>')

    def do_DELETE(self):
        self.server.objects.pop(self.asked()[0], None)
        self.reply(204)

@pytest.fixture
def bucket(pictures):
    "A store with some of the pictures in s3://faces/d; `uri` makes an address with keys and options"
    with ThreadingHTTPServer(('127.0.0.1',0), Bucket) as server:
        server.uploads,server.objects = {},{f'faces/d/{o.name}':o.read_bytes() for o in [*sorted(pictures.glob('real*'))[:10],pictures/'m.jpg']}
        def uri(path): return f's3://key:secret@faces/{path}?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1'
        server.uri = uri
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()

def test_a_bucket(bucket, pictures):
    bucket.objects |= {'faces/d/.hidden/a.jpg':b'1', 'faces/d/a.txt':b'1', 'faces/d/b/c.mp4':b'1', 'faces/d/\u00fc b.jpg':b'1'}
    stores = Stores()
    found = list_pictures(bucket.uri('d'), stores)
    assert found == [f's3://faces/{o[6:]}' for o in sorted(bucket.objects) if o.endswith(('.jpg','.mp4')) and '.hidden' not in o]
    assert stores.read(found[-1]) == b'1' and 'secret' not in ' '.join(found)
    assert stores.read(found[1]) == bucket.objects[found[1][5:]]
    assert list_pictures([found[0],bucket.uri('d/m.jpg')], stores) == [found[0],'s3://faces/d/m.jpg']
    with pytest.raises(ValueError, match='no such file'): stores.read('s3://faces/d/none.jpg')
    refuses(lambda: list_pictures(bucket.uri('d').replace('@faces', '@nobody'), Stores()), 'check the address')
    refuses(lambda: list_pictures('nowhere://faces', Stores()), 'check the address')
    refuses(lambda: Place(bucket.uri('d').replace('@faces', '@nobody'), Stores()).write('a', b'1'), 'cannot write to')

def test_parts_in_a_bucket(bucket, pictures, tmp_path):
    stores = Stores()
    paths = list_pictures(bucket.uri('d'), stores)+['s3://faces/d/none.jpg','https://example.org/a.jpg']
    place = one_process(paths, bucket.uri('out'), stores)
    assert place.names() >= {'_manifest.json',part_name(0),part_name(1)} and not bucket.uploads
    for i in (0,1): (tmp_path/part_name(i)).write_bytes(bucket.objects[f'faces/out/{part_name(i)}'])
    got = rows(tmp_path)
    local = Detector.default().predict([pictures/o.split('/')[-1] for o in paths[:11]], faces=False)
    assert [o['path'] for o in got] == paths and [o['prob_fake'] or -1 for o in got[:11]] == pytest.approx([a.prob_fake or -1 for a in local], abs=1e-6)
    assert [o['error'] for o in got[:11]] == [a.error for a in local]
    assert got[11]['error'] == 'no such file in the store' and 'not fetched' in got[12]['error']

def test_a_bucket_has_one_driver(bucket, monkeypatch):
    place = Place(bucket.uri('out'), Stores())
    place.write('_driver.json', b'["killed", 3]')
    with parts._lease(place, .1):
        refuses(lambda: parts._lease(place, .1).__enter__(), 'written by another process')
    assert '_driver.json' not in place.names()
    names = parts.uuid4
    monkeypatch.setattr(parts, 'uuid4', lambda: bucket.objects.update({'faces/late':b''}) or names())
    def late():     # another driver that begins at the same moment, and writes its name after ours
        while place.read('_driver.json') is None: time.sleep(.01)
        place.write('_driver.json', b'["other", 0]')
    Thread(target=late).start()
    refuses(lambda: parts._lease(place, .3).__enter__(), 'written by another process')

def test_files_of_any_other_store_are_moved_into_place(tmp_path, pictures):
    stores = Stores({'sub://x': (SubTreeFileSystem(str(tmp_path), LocalFileSystem()), '')})
    for n in (1,2): Place('sub://x/out', stores).write('a', b'1'*n)
    assert Place('sub://x/out', stores).names() == {'a'} and (tmp_path/'out'/'a').read_bytes() == b'11'
    shutil.copytree(pictures, tmp_path/'d', ignore=lambda d,names: [o for o in names if 'caf' in o])
    for o in ('.h/a.jpg','thumbs/a.jpg','e/z.jpg','e.jpg','e-1.jpg'): (tmp_path/'d'/o).parent.mkdir(exist_ok=True); (tmp_path/'d'/o).write_bytes(b'1')
    assert list_pictures('sub://x/d', stores) == [f'sub://x/d/{o.relative_to(tmp_path/"d").as_posix()}' for o in find_media(tmp_path/'d')]

# lists

def test_lists(tmp_path):
    (tmp_path/'d').mkdir()
    full = str(tmp_path/'d'/'a.jpg')
    pq.write_table(pa.table(dict(n=[1,2,3], path=pa.array(['d/a.jpg',full,None]).dictionary_encode())), tmp_path/'a.parquet')
    (tmp_path/'b.csv').write_bytes(b'\xef\xbb\xbfpath,n\r\n"d/a,b.jpg",1\r\ncaf\xe9.jpg,2\r\n'+Path(full).as_uri().encode()+b',3\r\ns3://x/%41.jpg,4\r\n')
    assert list_pictures([tmp_path/'a.parquet',(tmp_path/'b.csv').as_uri()], Stores()) == [full,full,'',
        str(tmp_path/'d'/'a,b.jpg'),f'{tmp_path}/caf\udce9.jpg',full,'s3://x/%41.jpg']

@pytest.mark.parametrize('name,data,words', [('a.csv',b'file,n\na,1\n','no column path, only file, n'), ('a.csv',b'','no column path, only none'), ('a.csv',b'path\n','no rows'),
    ('a.csv',b'path\n"'+b'x'*200_000,'damaged'), ('a.parquet',b'PAR1 no PAR1','damaged'), ('a.parquet',dict(file=['a']),'no column path, only file'), ('a.parquet',dict(path=[1]),'no text'),
    ('a.parquet',dict(path=pa.array([], pa.string())),'no rows'), ('none.parquet',None,'no file'), ('none.csv',None,'no file')])
def test_lists_that_are_none(tmp_path, name, data, words):
    if isinstance(data, dict): pq.write_table(pa.table(data), tmp_path/name)
    elif data is not None: (tmp_path/name).write_bytes(data)
    refuses(lambda: list_pictures(tmp_path/name, Stores()), words)

# parts

def test_the_rows_of_predict_csv(pictures, want, tmp_path):
    out = tmp_path/'out'
    one_process(list_pictures(pictures, Stores()), out)
    check(rows(out), want)
    assert {o.name for o in out.iterdir()} == {'_manifest.json',*map(part_name, range(6))}

def test_the_rows_of_predict_csv_with_faces_by_a_run(trained, pictures, tmp_path):
    some = [pictures/f'real-0000{i}.jpg' for i in range(4)]+[pictures/'m.jpg']
    predict_csv(Detector.load(trained, device='cpu'), some, tmp_path/'a.csv', faces=True)
    one_process(list_pictures(some, Stores()), tmp_path/'out', model=trained, part_size=3, faces=True)
    check(rows(tmp_path/'out'), read_csv(tmp_path/'a.csv'))

def test_a_part_that_is_there_is_not_scored_again_unless_it_is_damaged(pictures, want, tmp_path):
    out,paths = tmp_path/'out',list_pictures(pictures, Stores())
    place = one_process(paths, out)
    key = make_job(paths, out)[0]['key']
    before = {o.name:o.stat().st_mtime_ns for o in out.iterdir()}
    (out/part_name(1)).write_bytes((out/part_name(1)).read_bytes()[:-20])
    (out/part_name(2)).write_bytes(b'')
    (out/part_name(3)).unlink()
    pq.write_table(pa.table(dict(path=['x'])), out/part_name(4))
    assert [place.answered(i, key) for i in range(7)] == [8,None,None,None,None,3,None] and place.answered(0, 'other') is None
    one_process(paths, out)
    after = {o.name:o.stat().st_mtime_ns for o in out.iterdir()}
    assert {k for k in after if before[k]!=after[k]} == set(map(part_name, (1,2,3,4)))
    check(rows(out), want)

def test_a_folder_of_another_job(pictures, tmp_path):
    paths,out = list_pictures(pictures, Stores())[:8],tmp_path/'out'
    one_process(paths, out)
    for kw,words in ((dict(paths=paths[::-1]),'another list'), (dict(paths=paths[:7]),'another list'), (dict(part_size=4),'another part size'), (dict(faces=True),'other options')):
        refuses(lambda: make_job(**{'paths':paths, 'out':out} | kw), words)
    other = tmp_path/'other.onnx'
    shutil.copy(READY, other)
    with open(other, 'ab') as f: f.write(b' ')
    refuses(lambda: make_job(paths, out, model=other), 'another model')
    (out/'_manifest.json').write_text('[1')
    refuses(lambda: make_job(paths, out), 'damaged')
    (out/'_manifest.json').unlink()
    refuses(lambda: make_job(paths, out), 'parts without a manifest')

def test_a_worker_that_does_not_see_the_folder_or_has_another_version(pictures, tmp_path, monkeypatch):
    job,files,todo = make_job(list_pictures(pictures, Stores()), tmp_path/'out')
    refuses(lambda: PartScorer(job|dict(place=Place(tmp_path/'none', Stores())), files).score(0, todo[0]), 'does not see')
    monkeypatch.setattr(scale, '__version__', '0.0.0')
    refuses(lambda: PartScorer(job, files).score(0, todo[0]), 'same version')
    assert not rows(tmp_path/'out')

# wrong input, before Ray is started

def test_without_ray(monkeypatch, cli, pictures, tmp_path):
    monkeypatch.setitem(sys.modules, 'ray', None)
    code,out,err = cli('predict', pictures, '--engine', 'ray', '--out', tmp_path/'out')
    assert (code,out,err) == (2, '', "deepfake-nb: --engine ray needs Ray: pip install 'deepfake_nb[scale]'\n") and not (tmp_path/'out').exists()

@pytest.mark.parametrize('options,words', [(['--engine','dask','--out','d'],"no engine 'dask'"), (['--engine','ray'],'add --out'), (['--out','d'],'need --engine ray'), (['--address','auto'],'need --engine ray'),
    (['--engine','ray','--out','d','--json'],'leave out --json'), (['--engine','ray','--out','d','--csv','a.csv'],'leave out --csv'), (['--engine','ray','--out','d','--why'],'leave out --why')])
def test_options_that_do_not_go_together(cli, pictures, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    code,out,err = cli('predict', pictures, *options)
    assert code==2 and out=='' and words in err and len(err.splitlines())==1 and not list(tmp_path.iterdir())

@needs_ray
def test_wrong_input(cli, pictures, tmp_path):
    def fails(*args, words):
        start = time.monotonic()
        code,out,err = cli('predict', *args, '--engine', 'ray', '--no-faces')
        assert code==2 and out=='' and words in err and len(err.splitlines())==1 and time.monotonic()-start<30
    pq.write_table(pa.table(dict(file=['a'])), tmp_path/'a.parquet')
    fails(tmp_path/'a.parquet', '--out', tmp_path/'a', words='no column path')
    fails(pictures, '--out', tmp_path/'b', '--address', '127.0.0.1:9', words='no Ray answers')
    fails(pictures, '--out', tmp_path/'b', '--address', 'head', words='no address')
    fails(pictures, '--out', tmp_path/'b', '--model', tmp_path/'none', words='no run')
    fails(pictures, '--out', tmp_path/'a.parquet'/'d', words='cannot write')
    (tmp_path/'c').mkdir()
    with locked(tmp_path/'c'): fails(pictures, '--out', tmp_path/'c', words='written by another process')
    with socket.create_server(('127.0.0.1',0)) as mute: refuses(lambda: scale._check_address(f'127.0.0.1:{mute.getsockname()[1]}', .3), 'no Ray answers')

def test_progress():
    said = []
    scale._report([dict(pictures=10)]*4, 60, 100, said.append, every=0)
    assert said[0] == '70 of 100 pictures' and re.fullmatch(r'100 of 100 pictures, \d+ a second', said[-1]) and len(said) == 4
    assert scale.progress_line(10, 100, 1) == '10 of 100 pictures, 1 a second, 90 s left'

def test_a_pool():
    class Cluster:
        def __init__(self, **there): self.there = there
        def cluster_resources(self): return self.there
    pool,big = scale._pool,Cluster(CPU=16., GPU=2.)
    assert pool(Cluster(CPU=4.), None, False, 9) == (4,1,0) and pool(Cluster(CPU=4.), None, True, 3) == (3,1,0)
    assert pool(big, None, False, 99) == (2,8,1) and pool(big, 'cpu', False, 99) == (16,1,0) and pool(big, None, True, 99) == (16,1,0)
    refuses(lambda: pool(Cluster(CPU=4.), 'cuda', False, 9), 'no GPU')

# with Ray

@pytest.fixture(scope='module')
def cluster():
    "A Ray of two workers on this machine, as others are started by hand"
    with scale.connect(workers=2) as ray: yield ray

def workers(name=b'PartScorer'):
    "The process numbers of the actors that score"
    def is_ours(o):
        try: return (o/'cmdline').read_bytes().startswith(b'ray::') and name in (o/'cmdline').read_bytes()
        except OSError: return False
    return [int(o.name) for o in Path('/proc').iterdir() if o.name.isdigit() and is_ours(o)]

def when(n, out, f):
    "Call `f` in a thread when `out` has `n` parts"
    def wait():
        while len(list(Path(out).glob('part-*'))) < n: time.sleep(.02)
        done.append(f())
    done = []
    Thread(target=wait, daemon=True).start()
    return done

@needs_ray
@needs_proc
def test_a_killed_worker(cluster, pictures, want, tmp_path, capsys):
    out,said = tmp_path/'out',[]
    killed = when(3, out, lambda: os.kill(workers()[0], signal.SIGKILL))
    counter = when(6, out, lambda: os.kill(workers(b'Tries')[0], signal.SIGKILL))      # as when the node is lost that it is on
    n = predict_parts(pictures, out, faces=False, part_size=2, log=said.append)
    assert killed and counter and n == 41 and said[-2].startswith('43 of 43') and capsys.readouterr() == ('','')
    check(rows(out), want)
    assert {o.name for o in out.iterdir()} == {'_manifest.json',*map(part_name, range(22))}

@needs_ray
@needs_proc
def test_a_killed_driver(cluster, pictures, want, tmp_path):
    out = tmp_path/'out'
    address = cluster.get_runtime_context().gcs_address
    code = f'from deepfake_nb.scale import predict_parts; predict_parts({str(pictures)!r}, {str(out)!r}, address={address!r}, faces=False, part_size=2)'
    driver = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    killed = when(4, out, driver.kill)
    refused = when(1, out, lambda: refuses(lambda: predict_parts(pictures, out, faces=False, part_size=2), 'written by another process'))
    said = driver.communicate()[0]
    assert killed and refused and driver.returncode == -signal.SIGKILL, said
    before = {o.name:o.stat().st_mtime_ns for o in out.glob('part-*')}
    assert 4 <= len(before) < 22
    assert predict_parts(pictures, out, faces=False, part_size=2, log=lambda line: None) == 41
    check(rows(out), want)
    kept = [o.name for o in out.glob('part-*') if before.get(o.name) == o.stat().st_mtime_ns]
    assert len(kept) >= len(before)-2       # the workers of the killed driver may have finished a part once more

@needs_ray
def test_a_bucket_is_read_and_written_by_workers(cluster, bucket, cli):
    code,out,err = cli('predict', bucket.uri('d'), '--engine', 'ray', '--out', bucket.uri('out'), '--no-faces', '--address', cluster.get_runtime_context().gcs_address)
    assert (code,out) == (0,'') and 'the answers for 10 pictures to s3://faces/out' in err and 'secret' not in err, err
    assert part_name(0) in Place(bucket.uri('out'), Stores()).names()

class Deadly(Stores):
    "A store with one picture that kills the process that reads it"
    def read(self, uri, most=None):
        if 'deadly' in uri: os.kill(os.getpid(), signal.SIGKILL)
        return super().read(uri)

@needs_ray
def test_a_picture_that_kills_its_reader(cluster, bucket, tmp_path):
    cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    stores = Deadly()
    paths = [*list_pictures(bucket.uri('d'), stores)[:3],'s3://faces/deadly.jpg']
    job,files,todo = make_job(paths, tmp_path/'out', stores, part_size=4)
    assert [(r['part'],r['answered']) for r in run_parts(cluster, job, files, todo)] == [(0,2)]
    assert [o['error'] for o in rows(tmp_path/'out')][1:] == [None,None,'the process that opened it died']

@needs_ray
def test_what_a_worker_refuses_is_one_line(cluster, pictures, tmp_path):
    job,files,todo = make_job(list_pictures(pictures, Stores()), tmp_path/'out')
    before = set(threads())
    refuses(lambda: list(run_parts(cluster, job|dict(place=Place(tmp_path/'none', Stores())), files, todo)), 'does not see')
    assert set(threads()) <= before     # a thread that asks Ray for something after it was shut down would end this process

@needs_ray
def test_whoever_stops_reading_leaves_no_thread(cluster, pictures, tmp_path):
    job,files,todo = make_job(list_pictures(pictures, Stores()), tmp_path/'out', part_size=4)
    before,results = set(threads()),run_parts(cluster, job, files, todo)
    assert next(results)['pictures'] and set(threads())-before
    results.close()
    assert set(threads()) <= before
