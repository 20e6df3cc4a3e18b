"""Ask the page much at once, and see whether everybody is answered, whether its memory stays, and whether anything is left:
    python tools/load.py MODEL [PICTURE]     # a run's folder or an .onnx file; only 127.0.0.1 is talked to
What it says of a small ONNX file on two cores that were busy with other work (a second for each request, most of it Matplotlib's):
    600 of 600 requests with one picture by 20 clients were answered, in 494 s; told otherwise: []; files left: 0
    MB at the start, and after every 50 of 300 uploads: [944, 1058, 1079, 1085, 1086, 1086, 1087]; files left: 0; told otherwise: []
    after SIGTERM: []
"""
import http.client,json,os,signal,socket,subprocess,sys,tempfile,time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

def start(model, folder, **env):
    "Serve `model` with `folder` for its temporary files: the process, and the port"
    with socket.socket() as s: s.bind(('127.0.0.1',0)); port = s.getsockname()[1]
    code = 'from deepfake_nb.cli import main; main()'
    page = subprocess.Popen([sys.executable,'-W','ignore','-c',code,'app','--model',str(model),'--port',str(port)], stderr=subprocess.PIPE, text=True, env={**os.environ, 'TMPDIR':str(folder), **env})
    seen = []
    for line in page.stderr:
        seen.append(line)
        if 'the page is at' in line: return page,port
    raise RuntimeError(''.join(seen))

def call(port, method, path, body=None, **headers):
    "One request: status, and body"
    link = http.client.HTTPConnection('127.0.0.1', port, timeout=300)
    try:
        link.request(method, f'/gradio_api/{path}', body, headers)
        r = link.getresponse()
        return r.status,r.read()
    finally: link.close()

def upload(port, content, name='face.jpg'):
    "Upload a file, as a browser's form does: status, and what came back"
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n' % name.encode() + content + b'\r\n--x--\r\n'
    return call(port, 'POST', 'upload', body, **{'Content-Type':'multipart/form-data; boundary=x'})

def ask(port, content, name='face.jpg'):
    "Upload a file and ask about it: the HTML of the verdict and of the reasons"
    status,said = upload(port, content, name)
    if status!=200: raise RuntimeError(f'{status} {said[:200]}')
    data = json.dumps(dict(data=[[dict(path=json.loads(said)[0], meta=dict(_type='gradio.FileData'))]]))
    status,said = call(port, 'POST', 'call/show', data, **{'Content-Type':'application/json'})
    status,said = call(port, 'GET', f"call/show/{json.loads(said)['event_id']}")
    lines = said.decode().splitlines()
    if 'event: complete' not in lines: raise RuntimeError(f'{status} {said[-200:]}')
    return json.loads(lines[lines.index('event: complete')+1].removeprefix('data: '))[:2]

def answered(port, contents, clients):
    "How many of these get a verdict when so many clients ask at once, and what the others were told"
    def one(content):
        try: verdict = ask(port, content)[0]
        except (OSError,RuntimeError,http.client.HTTPException) as e: return f'{type(e).__name__}: {e}'
        return None if '% fake' in verdict else verdict
    with ThreadPoolExecutor(clients) as pool: said = list(pool.map(one, contents))
    return sum(o is None for o in said),sorted({o for o in said if o})

def memory(page):
    "Resident memory of a process in MB"
    return next(int(o.split()[1])//1024 for o in Path(f'/proc/{page.pid}/status').read_text().splitlines() if o.startswith('VmRSS'))

def left(folder): return sorted(str(o.relative_to(folder)) for o in Path(folder).rglob('upload*') if o.is_file())

def stop(page, how=signal.SIGTERM):
    "End the page: its exit status"
    page.send_signal(how)
    return page.wait(30)

def varied(content, n):
    "The same picture `n` times, with other bytes each time: what follows the end of a JPEG is not looked at"
    return [content+str(i).encode() for i in range(n)]

def main(model, picture=None, same=600, clients=20, uploads=300):
    "The whole test, with its figures on stdout"
    from deepfake_nb.sample import cached_sample
    content = Path(picture or next((cached_sample(8)/'real').iterdir())).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        page,port = start(model, folder)
        began = time.time()
        n,told = answered(port, [content]*same, clients)
        print(f'{n} of {same} requests with one picture by {clients} clients were answered, in {time.time()-began:.0f} s; told otherwise: {told}; files left: {len(left(folder))}')
        stop(page)
        page,port = start(model, folder)
        sizes,pictures = [memory(page)],varied(content, uploads)
        for i in range(0, uploads, 50):
            n,told = answered(port, pictures[i:i+50], 1)
            sizes.append(memory(page))
        print(f'MB at the start, and after every 50 of {uploads} uploads: {sizes}; files left: {len(left(folder))}; told otherwise: {told}')
        stop(page)
        print(f"after SIGTERM: {[o for o in os.listdir(folder) if not o.startswith('torchinductor')]}")       # an empty folder of PyTorch's stays

if __name__=='__main__': main(*sys.argv[1:3])
