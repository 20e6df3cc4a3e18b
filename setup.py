"Version and metadata stand in pyproject.toml; this reads the dependency lists from settings.ini."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

config = ConfigParser(delimiters=["="])
config.read(Path(__file__).with_name("settings.ini"), encoding="utf-8")
lists = {k: v.split("\n") for k, v in config["DEFAULT"].items() if k.endswith("requirements")}
setup(install_requires=lists.pop("requirements"),
      extras_require={k.removesuffix("_requirements"): v for k, v in lists.items()})
