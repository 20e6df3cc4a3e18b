"Build the site into _docs, offline: python tools/docs.py [--url https://where.it/will/stand]. Quarto renders it where it is installed, smalldocs where it is not."
import argparse,os,re,shutil,sys
from pathlib import Path

import nbformat,yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
MODULE = re.compile(r'\d+\w?_(\w+)')
PARTS = {'I Data':(1,9), 'II Measure':(10,19), 'III Models':(20,29), 'IV Train':(30,39), 'V Compare':(40,49), 'VI Use':(50,69)}
SOURCE = re.compile(r'\[source\]\(/blob/[^)]*\)\{[^}]*\}\n*')     # leads nowhere while pyproject.toml names no repository
MATH = re.compile(r'(```.*?```|`[^`\n]+`)|\$\$(.+?)\$\$|\$(?=\S)([^$`\n]+?)(?<=\S)\$(?!\d)', re.S)
WEB_FONT = re.compile(r'@import\s*url\(["\']?https://fonts\.googleapis[^)]*\)[^;]*;')
UNSHOWN = re.compile(r'\[(`(?:_\w+|[\w.]+\.default(?:\(\))?)`)\]\([^)]*\)')     # private names and class methods have no entry on a page
DIRECTIVE = re.compile(r'\A#\| export(: true)?\n')          # an opening that is the module's docstring too
SYMBOL = re.compile(r'(?<=\]\()/(\w+)\.html(?=[#)])')             # nbdev's link to a symbol of ours

def sidebar(
    names:list[str], # Paths of the pages, from nbs
)->list[dict]: # Quarto's `contents`
    "Put the pages in reading order, part by part"
    def numbered(first, last): return [o for o in sorted(names) if MODULE.match(o) and first<=int(o[:2])<=last]
    def named(*stems): return [o for o in sorted(names) if o.startswith(stems)]
    groups = {'Begin here':[*named('index'),*numbered(0, 0)], **{k:numbered(*span) for k,span in PARTS.items()},
        'Tutorials':named('tutorials/'), 'Appendix':numbered(70, 99), 'Sources':named('references')}
    return [dict(section=k, contents=v) for k,v in groups.items() if v]

def stage()->Path: # The folder with the staged notebooks
    "Let nbdev write its configuration and stage the notebooks, as `nbdev-docs` does, without its attempt to fetch Quarto"
    from nbdev.config import get_config
    from nbdev.quarto import nbdev_sidebar,refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    nbdev_sidebar.__wrapped__()
    return proc_nbs(get_config().nbs_path)

def formula(
    m:re.Match, # Of `MATH`
)->str: # Code as it was, or a formula as MathML
    "Let the browser set formulas, without a script from elsewhere"
    from latex2mathml.converter import convert
    if m[1]: return m[1]
    return convert(m[2] or m[3], display='block' if m[2] else 'inline')

def mend(
    cache:Path, # The staged notebooks; changed in place
    url:str, # Where the site will stand, or '' if that is not known
):
    "Group the sidebar, lead links to symbols to the pages of both renderers, and set formulas as MathML"
    pages = sorted(o.relative_to(cache).as_posix() for o in cache.rglob('*.ipynb') if not o.relative_to(cache).parts[0].startswith('_'))
    (cache/'sidebar.yml').write_text(yaml.safe_dump(dict(website=dict(sidebar=dict(contents=sidebar(pages)))), sort_keys=False))
    home = {m[1]:o for o in pages if (m := MODULE.match(o.removesuffix('.ipynb')))}
    def lead(m): return f'/{home[m[1]]}' if m[1] in home else m[0]
    def fix(text): return SYMBOL.sub(lead, UNSHOWN.sub(r'\1', SOURCE.sub('', DIRECTIVE.sub('', text))))
    for p in map(cache.joinpath, pages):
        nb = nbformat.read(p, as_version=4)
        for c in nb.cells:
            if c.cell_type=='markdown': c.source = MATH.sub(formula, fix(c.source))
            for o in c.get('outputs', []):
                if (text := o.get('data', {}).get('text/markdown')): o.data['text/markdown'] = fix(text)
        nbformat.write(nb, p)
    if url:
        conf = yaml.safe_load((cache/'nbdev.yml').read_text())
        conf['website']['site-url'] = url
        (cache/'nbdev.yml').write_text(yaml.safe_dump(conf, sort_keys=False))

def render(
    cache:Path, # The staged notebooks
)->list[str]: # Broken links, where the renderer tells
    "Render `cache` into `cache/_docs`"
    if shutil.which('quarto'):
        from nbdev.quarto_render import render_quarto
        return render_quarto(cache, cache/'_docs') or []
    from smalldocs.site import build
    return [o for o in build(str(cache), quiet=True).warnings if 'broken link' in o]

def own_fonts(
    site:Path, # The rendered site; changed in place
):
    "Take the themes' web fonts out: a reader's own do, and no page asks another machine for anything"
    for p in site.rglob('*.css'): p.write_text(WEB_FONT.sub('', p.read_text(encoding='utf-8')), encoding='utf-8')

def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--url', default='', help="where the site will stand; social cards need it to name their picture")
    url = parser.parse_args().url
    os.chdir(ROOT)
    os.environ.update(MPLBACKEND='Agg', HF_HUB_OFFLINE='1', TQDM_DISABLE='1')
    cache = stage()
    mend(cache, url)
    shutil.rmtree(cache/'_docs', ignore_errors=True)
    broken = render(cache)
    own_fonts(cache/'_docs')
    shutil.rmtree(ROOT/'_docs', ignore_errors=True)
    shutil.move(cache/'_docs', ROOT/'_docs')
    print(f"{len(list((ROOT/'_docs').rglob('*.html')))} pages in _docs, by {'Quarto' if shutil.which('quarto') else 'smalldocs'}: open _docs/index.html")
    sys.exit('\n'.join(broken) or None)

if __name__ == '__main__': main()
