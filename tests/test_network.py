"""Nothing is looked up, nothing is sent, and nothing is written but what was asked for

Watched by Python's audit hooks and, where it is installed, by strace."""
import os,re,shutil,signal,socket,subprocess,sys,time,urllib.request
from pathlib import Path

import pytest

from conftest import SMALL

# Read by every Python that starts with this folder on its path; native code is strace's to watch
HOOK = '''
import os,sys
def watch(event, args):
    names = 'socket.getaddrinfo','socket.gethostbyname','socket.gethostbyaddr'
    if event in ('socket.connect','socket.sendto','socket.sendmsg',*names):
        what = args[0] if event in names else args[1]
        with open(os.environ['WATCHED'], 'a') as f: f.write(f'{event} {what!r}\\n')
sys.addaudithook(watch)
'''
HERE = re.compile(r"""b?['"]?(localhost|127\.\d+\.\d+\.\d+|::1|0\.0\.0\.0|)['"]?$""")     # an address of this machine
PEER = re.compile(r'sin_addr=inet_addr\("([^"]+)"|inet_pton\(AF_INET6, "([^"]+)"|sun_path="([^"]*(?:resolve|dbus)[^"]*)"')
STRACE = shutil.which('strace')

def beyond(line):
    "Does a line of the hook's speak of another machine?"
    event,what = line.split(' ', 1)
    if not what.startswith('('): return what!='None' and not HERE.match(what)
    host = what[1:].split(',')[0]
    return not HERE.match(host)

def beyond_traced(text):
    "Addresses of other machines in what strace wrote"
    peers = {next(filter(None, o)) for o in PEER.findall(text)}
    return {o for o in peers if not HERE.match(o)}

class Watch:
    "Commands in a process of their own, whose home, temporary folder and traffic are watched"
    def __init__(self, folder):
        self.folder,self.log,self.trace = folder,folder/'watched.txt',folder/'trace.txt'
        for o in ('hook','home','tmp'): (folder/o).mkdir(parents=True)
        (folder/'hook'/'sitecustomize.py').write_text(HOOK)
        self.log.touch()
        root = str(Path(__file__).resolve().parents[1])
        self.env = {k:v for k,v in os.environ.items() if k in ('PATH','LANG','VIRTUAL_ENV','LD_LIBRARY_PATH','SYSTEMROOT')}
        self.env |= dict(PYTHONPATH=f'{folder/"hook"}{os.pathsep}{root}', HOME=str(folder/'home'), TMPDIR=str(folder/'tmp'),
            WATCHED=str(self.log), OMP_NUM_THREADS='1', TQDM_DISABLE='1', MPLBACKEND='Agg')

    def start(self, *args):
        traced = [STRACE,'-f','--seccomp-bpf','-qq','-A','-o',str(self.trace),'-e','trace=connect,sendto,sendmsg,sendmmsg']
        return subprocess.Popen([*(traced if STRACE else []),sys.executable,*map(str, args)], env=self.env, cwd=self.folder/'tmp',
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *args):
        p = self.start(*args)
        out,_ = p.communicate(timeout=300)
        assert p.returncode==0, out[-3000:]
        return out

    def said(self):
        "What went to other machines, or asked for them"
        traced = beyond_traced(self.trace.read_text(errors='replace')) if self.trace.exists() else set()
        return [o for o in self.log.read_text().splitlines() if beyond(o)]+sorted(traced)

    def written(self):
        "Files under the home and the temporary folder, but for the package's own cache and matplotlib's list of fonts"
        files = [o.relative_to(self.folder) for k in ('home','tmp') for o in (self.folder/k).rglob('*') if o.is_file()]
        ours = lambda o: o.parts[:3]==('home','.cache','deepfake_nb') or re.fullmatch(r'fontlist-v.*\.json', o.name)
        return sorted(str(o) for o in files if not ours(o))

CLI = '-c','from deepfake_nb.cli import main; main()'

@pytest.fixture
def watch(tmp_path): return Watch(tmp_path/'watch')

@pytest.fixture(scope='module')
def exported(trained, tmp_path_factory):
    from deepfake_nb.onnx_export import export
    pytest.importorskip('onnxruntime')
    export(trained, out := tmp_path_factory.mktemp('onnx')/'model.onnx')
    return out

def test_export_and_predict_are_silent(watch, trained, faces, tmp_path):
    pytest.importorskip('onnxruntime')
    watch.run(*CLI, 'export', trained, '--out', tmp_path/'m.onnx')
    face = next((faces/'real').iterdir())
    for model in (tmp_path/'m.onnx',trained): assert 'fake' in watch.run(*CLI, 'predict', face, '--model', model)
    assert watch.said()==[] and watch.written()==[]

def test_compare_is_silent(watch, faces, tmp_path):
    small = [*SMALL]; small[small.index('--epochs')+1] = '1'
    data = '--real',faces/'real','--fake',faces/'fake'
    watch.run(*CLI, 'compare', *data, '--models', 'cnn2', *small, '--out', tmp_path/'run')
    assert watch.said()==[] and watch.written()==[] and (tmp_path/'run'/'report.html').exists()

def test_the_page_is_silent(watch, exported):
    pytest.importorskip('gradio')
    with socket.create_server(('127.0.0.1',0)) as s: port = s.getsockname()[1]
    p = watch.start(*CLI, 'app', '--model', exported, '--port', port)
    try:
        line = next(o for o in p.stdout if 'the page is at' in o or 'Error' in o)
        assert 'the page is at' in line
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert 'Is this face fake?' in direct.open(f'http://127.0.0.1:{port}/', timeout=60).read().decode()
        time.sleep(2)       # whoever reports home does so in the background
        assert watch.said()==[]
    finally:
        os.kill(child(p.pid), signal.SIGTERM)
        p.wait(timeout=60)
    assert not [o for o in watch.written() if o.startswith('home')]

def child(pid):
    "The process that strace watches, or `pid` itself"
    if not STRACE: return pid
    return int(Path(f'/proc/{pid}/task/{pid}/children').read_text().split()[0])

# The watch itself: what it is to find, it finds

UDP = 'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)'
PLANTED = dict(connect=f"{UDP}; s.connect(('203.0.113.7', 9))", send=f"{UDP}; s.sendto(b'x', ('203.0.113.7', 9))",
    look_up="import socket; socket.getaddrinfo('example.invalid', 80)")

@pytest.mark.parametrize('kind', PLANTED)
def test_a_planted_packet_is_found(watch, kind):
    watch.run('-c', f'try: {PLANTED[kind]}\nexcept OSError: pass')
    assert watch.said()

@pytest.mark.skipif(not STRACE, reason='native code is watched by strace')
def test_a_planted_native_packet_is_found(watch):
    code = """import ctypes,struct
c = ctypes.CDLL(None)
c.connect(c.socket(2, 2, 0), struct.pack('<HHI8x', 2, 0x900, 0x077100cb), 16)"""
    watch.run('-c', code)
    assert watch.log.read_text()=='' and watch.said()==['203.0.113.7']

def test_a_planted_file_is_found(watch):
    watch.run('-c', "import pathlib; pathlib.Path.home().joinpath('.deviceid').write_text('x')")
    assert watch.written()==['home/.deviceid']

def test_the_device_id_of_onnx_runtime_is_found_where_its_telemetry_is_on(watch, exported):
    "The variables that the package sets are what keeps it away"
    code = f"import onnxruntime as o; o.InferenceSession({str(exported)!r}, providers=['CPUExecutionProvider'])"
    watch.run('-c', code)
    if not watch.written(): pytest.skip('this ONNX Runtime has no telemetry')
    assert any('deviceid' in o for o in watch.written())
    quiet = Watch(watch.folder/'quiet')
    quiet.run('-c', f'import deepfake_nb; {code}')
    assert quiet.written()==[] and quiet.said()==[]

def test_what_counts_as_beyond():
    for o in ("connect ('127.0.0.1', 80)","connect ('::1', 80, 0, 0)","getaddrinfo 'localhost'","getaddrinfo None"):
        assert not beyond(f'socket.{o}'), o
    for o in ("connect ('8.8.8.8', 80)","getaddrinfo 'huggingface.co'","getaddrinfo b'huggingface.co'","sendto ('1.1.1.1', 53)",
            "connect ('127.0.0.1.example.com', 80)"): assert beyond(f'socket.{o}'), o
    there = 'connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("8.8.8.8")}, 16)'
    here = 'connect(3, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110)\n'+there.replace('8.8.8.8', '127.0.0.1')
    assert beyond_traced(there)=={'8.8.8.8'} and not beyond_traced(here)
