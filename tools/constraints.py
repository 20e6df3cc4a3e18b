"Write constraints.txt, the versions in this environment, after its tests have passed: python tools/constraints.py"
import platform,re,sys
from configparser import ConfigParser
from importlib import metadata
from itertools import count
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
GPU = re.compile(r'(cuda|nvidia|triton)\b')     # torch names the exact ones that its build needs
NOT_ON = {'c2pa-python':'win32'}                # version 0.38.1 has no wheel for Windows, 0.38.0 has

def settings()->dict: # {name: value}, with each list of requirements as text, a line each
    "Read settings.ini"
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return dict(config['DEFAULT'])

def direct(
    values:dict, # As `settings` returns it
)->list[Requirement]: # Without the package itself, which its extra `dev` names
    "List the requirements of the package and of all its extras"
    lists = [v for k,v in values.items() if k.endswith('requirements')]
    found = [Requirement(o) for text in lists for o in text.splitlines()]
    return [o for o in found if canonicalize_name(o.name)!=canonicalize_name(values['lib_name'])]

def needed(
    requirements:list[Requirement], # Those whose markers do not hold here are passed over
)->dict: # {canonical name: Distribution}; a `PackageNotFoundError` if one is not installed
    "Find what `requirements` bring into this environment, and what that brings in turn"
    todo,seen,found = [(o,'') for o in requirements],set(),{}
    while todo:
        req,extra = todo.pop()
        name = canonicalize_name(req.name)
        if GPU.match(name) or req.marker and not req.marker.evaluate(dict(extra=extra)): continue
        found[name] = dist = metadata.distribution(name)
        for e in {'',*req.extras}-{e for n,e in seen if n==name}:
            seen.add((name,e))
            todo += [(Requirement(o),e) for o in dist.requires or ()]
    return found

def marker(
    name:str, # Canonical
    dist, # Distribution
    oldest:str, # Python that the package still supports, such as '3.10'
)->str: # '' if the version can be had everywhere
    "Say for which Pythons and systems the version of a package can be had"
    runs = SpecifierSet(dist.metadata['Requires-Python'] or '')
    first = int(oldest.split('.')[1])
    since = next(o for o in count(first) if runs.contains(f'3.{o}.99'))     # its last bug fix
    parts = [f'python_version >= "3.{since}"']*(since>first)
    if name in NOT_ON: parts.append(f'sys_platform != "{NOT_ON[name]}"')
    return ' and '.join(parts)

def pin(
    name:str, # Canonical
    dist, # Distribution
    oldest:str, # As for `marker`
)->str: # Without a local version such as +cpu, so that it holds for every build
    "Write the line of a package"
    where = marker(name, dist, oldest)
    return f'{name}=={Version(dist.version).public}'+(f'; {where}' if where else '')

def constraints()->str:
    "The text of constraints.txt"
    values = settings()
    found = needed(direct(values))
    head = f"""# The versions that were tested: pip install -c constraints.txt -e '.[dev]'
# Made by python tools/constraints.py on {platform.system()} with Python {platform.python_version()}; not edited by hand.
# Everything that settings.ini names is here, and what that brings in turn. What only a GPU, another
# system or an older Python needs is not: there pip chooses.
"""
    return head+''.join(pin(k, found[k], values['min_python'])+'\n' for k in sorted(found))

if __name__ == '__main__':
    try: text = constraints()
    except metadata.PackageNotFoundError as e: sys.exit(f"{e.name} is not installed: pip install -e '.[dev]'")
    (ROOT/'constraints.txt').write_text(text, encoding='utf-8', newline='\n')
    print(f"{text.count('==')} versions in constraints.txt")
