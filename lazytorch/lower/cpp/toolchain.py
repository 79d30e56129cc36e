"""Finds the machine's C++ compiler and turns generated source into a loaded library."""

from __future__ import annotations

import ctypes
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

import torch

from lazytorch.errors import CompilerError
from lazytorch.lower.cpp.prelude import prelude

NAMES = ("g++", "clang++", "c++")
"""Compilers looked for on PATH, in this order: g++ makes vector code of calls to libmvec."""

SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"

# -O2 makes the same vector code of `omp simd` loops as -O3 and takes 0.6 of its time.
# No -ffast-math: NaN, infinities and signed zeros are eager's. The two relaxations concern only
# errno and the floating-point exception flags, and without them nothing becomes vector code.
FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-shared", "-pipe"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-exceptions", "-fno-rtti"),
    *("-fno-asynchronous-unwind-tables", "-fno-semantic-interposition"),
)

Store = Callable[[str, Callable[[Path], None], str], Path]
"""A place for built files: from a key, what writes the file, and its suffix to the file's path."""


class NoCompilerError(CompilerError):
    """There is no C++ compiler on this machine."""


class CompileError(CompilerError):
    """The C++ compiler refused generated source: a fault of the generator, not of the user."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler, with flags for this machine and with the OpenMP runtime that torch uses."""

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    libraries: tuple[str, ...]

    def key(self, source: str, contract: bool) -> str:
        """Return a name for what `build` writes: all that it depends on, hashed."""
        parts = (*self.command, self.version, *self.arguments(contract), *self.libraries)
        return sha256("\0".join((*parts, cpu_features(), source)).encode()).hexdigest()

    def arguments(self, contract: bool) -> tuple[str, ...]:
        """The flags, with or without leave to contract a product and a sum into one rounding."""
        return (*FLAGS, *self.flags, f"-ffp-contract={'fast' if contract else 'off'}")

    def build(self, source: str, contract: bool, path: Path) -> None:
        """Write the shared library at `path`. Runs in a process of its own, without the GIL."""
        arguments = (
            *self.command,
            *self.arguments(contract),
            *("-x", "c++", "-", "-x", "none", "-o", str(path)),
            *self.libraries,
        )
        run = partial(
            subprocess.run, arguments, input=source, capture_output=True, text=True, check=False
        )
        try:
            try:
                made = run()
            except OSError:  # a machine may be short of memory or of processes for a moment
                made = run()
        except OSError as error:  # it has gone since, or no process can be made
            raise NoCompilerError(
                f"the C++ compiler {self.command[0]!r} cannot be run any more: {error.strerror}",
                hint="check that it is there, and the limits on processes and memory.",
            ) from error
        if made.returncode != 0:
            raise CompileError(
                f"{self.command[0]} failed on generated code: {first_error(made.stderr)}",
                {"command": shlex.join([*self.command, *self.arguments(contract)])},
                hint="this is a bug in lazytorch; please report it with the source of the kernel.",
            )


def load(
    source: str, *, contract: bool = True, cxx: str | None = None, store: Store | None = None
) -> ctypes.CDLL:
    """Compile C++ that may use the prelude, and load it.

    `contract` lets a product and a sum round once. `cxx` names the compiler, otherwise PATH is
    searched. `store` keeps the library for the next process; without it nothing stays on disk.
    Raises NoCompilerError or CompileError. May run in any thread.
    """
    compiler = find_compiler(cxx)
    if compiler is None:
        raise NoCompilerError(
            f"no C++ compiler: none of {', '.join(NAMES)} is on PATH",
            hint="install g++ or clang++, or set CXX; torch's own kernels are used until then.",
        )
    text = prelude() + source

    def build(path: Path) -> None:
        compiler.build(text, contract, path)

    if store is not None:
        return ctypes.CDLL(str(store(compiler.key(text, contract), build, SUFFIX)))
    with tempfile.TemporaryDirectory(prefix="lazytorch-") as folder:
        path = Path(folder) / f"kernels{SUFFIX}"
        build(path)
        return ctypes.CDLL(str(path))


@cache
def find_compiler(cxx: str | None = None) -> Compiler | None:
    """Return the compiler named by `cxx` (a command, as in CXX), or the first of NAMES on PATH.

    None when there is none on PATH; NoCompilerError when `cxx` names one that does not run.
    """
    for name in (cxx,) if cxx else NAMES:
        command = shlex.split(name)
        found = shutil.which(command[0])
        version = found and version_of((found, *command[1:]))
        if found and version:
            openmp = openmp_library()
            return Compiler(
                (found, *command[1:]), version, target_flags(version, openmp), libraries(openmp)
            )
    if cxx:
        raise NoCompilerError(f"the C++ compiler {cxx!r} cannot be run", hint="check CXX.")
    return None


def version_of(command: tuple[str, ...]) -> str:
    """What the compiler says of itself; empty when it does not run."""
    try:
        asked = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return asked.stdout if asked.returncode == 0 else ""


def target_flags(version: str, openmp: Path | None) -> tuple[str, ...]:
    """Flags for this machine's CPU and for threads."""
    apple = "Apple" in version
    arm = platform.machine() in ("arm64", "aarch64")
    flags = ["-mcpu=native" if arm else "-march=native"]
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        # g++ would use half of each register; 256 bits took 1.4 times as long for exp and tanh.
        flags.append("-mprefer-vector-width=512")
    if openmp is None:
        flags.append("-fopenmp-simd")
    else:
        flags += ["-Xclang", "-fopenmp"] if apple else ["-fopenmp"]
    return tuple(flags)


def libraries(openmp: Path | None) -> tuple[str, ...]:
    """What to link, named in full.

    The default libraries are left out because -fopenmp would bring the compiler's own OpenMP
    runtime: a second pool of threads beside torch's that fights it for the cores and ignores
    torch.set_num_threads. Linked by its path, torch's copy is the one already in the process.
    """
    named = (str(openmp),) if openmp else ()
    if sys.platform == "darwin":
        return (*named, "-undefined", "dynamic_lookup")
    vector = ("-lmvec",) if platform.libc_ver()[0] == "glibc" and is_x86() else ()
    return ("-nostdlib", *named, "-Wl,--as-needed", *vector, "-lm", "-lc", "-lgcc")


def is_x86() -> bool:
    """Whether this process runs x86-64 code."""
    return platform.machine() in ("x86_64", "AMD64")


@cache
def openmp_library() -> Path | None:
    """Return the OpenMP runtime that torch has loaded; None when torch has none."""
    name = re.compile(r"lib(gomp|iomp5|omp)\b[^/]*\.(so[^/]*|dylib)$")
    own = Path(torch.__file__).parent / "lib"
    maps = Path("/proc/self/maps")
    if maps.exists():
        mapped = {line.split(maxsplit=5)[-1].strip() for line in maps.read_text().splitlines()}
        found = sorted((Path(x) for x in mapped if name.search(x)), key=lambda x: x.parent != own)
    else:
        found = sorted(x for x in own.iterdir() if name.search(x.name))
    return found[0] if found else None


@cache
def cpu_features() -> str:
    """What this CPU can do: a shared folder may bring its code to a machine that can do less."""
    described = Path("/proc/cpuinfo")
    if not described.exists():
        return f"{platform.machine()} {platform.processor()}"
    features = re.search(r"^(flags|Features)\s*:(.*)$", described.read_text(), re.MULTILINE)
    return f"{platform.machine()} {features[2].strip() if features else platform.processor()}"


def first_error(stderr: str) -> str:
    """The first line in which a compiler says what is wrong."""
    lines = stderr.strip().splitlines() or ["it said nothing"]
    return next((line for line in lines if "error" in line), lines[0])
