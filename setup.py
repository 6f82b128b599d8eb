"""Everything is declared in pyproject.toml; this file adds what that cannot say: the patches travel in the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithPatches(build_py):
    """Also copies patches/*.patch to stylegan2_msp/patches, where `stylegan2-msp patch` finds them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # they are found where they are
            return
        target = Path(self.build_lib) / "stylegan2_msp" / "patches"
        self.mkpath(str(target))
        patches = sorted((Path(__file__).parent / "patches").glob("*.patch"))
        if not patches:
            raise FileNotFoundError("patches/ is missing: build from a whole checkout or source distribution")
        for patch in patches:
            self.copy_file(str(patch), str(target / patch.name))


setup(cmdclass={"build_py": BuildWithPatches})
