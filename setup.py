"""What pyproject.toml cannot say: folders at the top of the clone become folders of the package ``engine``.

pyproject.toml either finds packages or lists them; found packages and these two together need the call below.
engine/core/resources.py finds the folders again.
"""

from setuptools import find_packages, setup

CODE = ("engine", "strict_yaml", "prompt_modules", "backbones", "clinical_tasks")
DATA = {"engine.ds_configs": "ds_configs", "engine.machines": "configs/machines"}

setup(
    packages=[*find_packages(include=[f"{name}{below}" for name in CODE for below in ("", ".*")]), *DATA],
    package_dir=DATA,
)
