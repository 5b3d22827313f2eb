"""The build backend: setuptools, with access to the torch of the target environment.

pip builds in an isolated environment, which hides the installed torch. The interpreter still knows the site-packages of
the surrounding environment, so this backend looks there. It adds torch as a build requirement only if there is none and
native code will be compiled against it.
"""

import site
import sys
import sysconfig
from importlib.machinery import PathFinder

from native_compiler import compiles
from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401 - hooks of PEP 517 and PEP 660, unchanged
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)


def _host_folders() -> list[str]:
    """Return the site-packages folders of the interpreter's environment."""
    folders = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return list(dict.fromkeys(folders))


def _show_host_torch() -> bool:
    """Make the environment's torch importable, after everything else. Return false if there is none."""
    if PathFinder.find_spec("torch") is not None:
        return True
    if PathFinder.find_spec("torch", _host_folders()) is None:
        return False
    sys.path += [folder for folder in _host_folders() if folder not in sys.path]
    return True


def _torch_requirement() -> list[str]:
    return ["torch>=2.10"] if compiles() and not _show_host_torch() else []


def get_requires_for_build_wheel(config_settings=None):
    """Return the requirements of setuptools, and torch if it is needed and the environment has none."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_torch_requirement()]


def get_requires_for_build_editable(config_settings=None):
    """Return the requirements of setuptools, and torch if it is needed and the environment has none."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_torch_requirement()]


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Build a wheel against the environment's torch."""
    _show_host_torch()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """Build for an editable install against the environment's torch."""
    _show_host_torch()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
